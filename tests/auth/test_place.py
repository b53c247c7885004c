"""Which file a store uses is settled once: neither chdir nor a changed link moves it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.lifespan import token_store_lifespan
from nextcloud_mcp_server.settings import Settings
from tests.support.contents import KEY
from tests.support.files import names

#: Ways to name the file ``tokens.db`` of the working directory.
NAMED: dict[str, Callable[[], RefreshTokenStorage]] = {
    "text": lambda: RefreshTokenStorage("tokens.db"),
    "path": lambda: RefreshTokenStorage(Path("tokens.db")),
    "folder": lambda: RefreshTokenStorage("../here/tokens.db"),
    "url": lambda: RefreshTokenStorage("sqlite:///tokens.db"),
    "settings": lambda: RefreshTokenStorage(settings=Settings(Path("tokens.db"))),
    "link": lambda: RefreshTokenStorage("../link/tokens.db"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, beside another folder and a link."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY", raising=False)
    return tmp_path / "here"


def _go_elsewhere(here: Path) -> None:
    os.chdir(here.parent / "there")
    (here.parent / "new").symlink_to("there")
    (here.parent / "new").rename(here.parent / "link")


@pytest.mark.parametrize("when", ["before it is opened", "while it is open"])
@pytest.mark.parametrize("name", NAMED)
async def test_a_store_stays_in_its_file(name: str, when: str, here: Path) -> None:
    """Every connection, the lock, the key and the in-use marker are where it was named."""
    storage = NAMED[name]()
    if when == "before it is opened" and name != "link":
        os.chdir(here.parent / "there")
    async with storage:
        if when == "while it is open":
            _go_elsewhere(here)
        await storage.store_refresh_token("anna", "first")
        # Several at once, so that more connections are opened.
        await asyncio.gather(*(storage.get_refresh_token("anna") for _ in range(20)))
    async with RefreshTokenStorage(here / "tokens.db") as again:
        token = await again.get_refresh_token("anna")
    assert token is not None
    assert token.token == "first"
    assert names(here) >= {"tokens.db", "tokens.db.key", "tokens.db.lock", "tokens.db.inuse"}
    assert names(here.parent / "there") == set()


async def test_a_lifespan_stays_in_its_file(here: Path) -> None:
    """A lifespan that was made at import uses the working directory of the import."""
    lifespan = token_store_lifespan("tokens.db", encryption_key=KEY)
    os.chdir(here.parent / "there")
    async with lifespan(None) as state:
        await state["storage"].list_user_ids()
    assert "tokens.db" in names(here)
    assert names(here.parent / "there") == set()


async def test_a_named_key_file_stays_where_it_was(here: Path) -> None:
    """A relative key file is found by a start that follows a chdir."""
    (here / "key").write_text(KEY)
    (here / "key").chmod(0o600)
    storage = RefreshTokenStorage(settings=Settings(Path("tokens.db"), key_file=Path("key")))
    os.chdir(here.parent / "there")
    async with storage:
        pass
    assert names(here) >= {"tokens.db", "key"}


async def test_a_working_directory_that_is_gone_is_an_error(here: Path) -> None:
    """A relative path without a working directory is refused when the store is opened."""
    here.rmdir()  # noqa: ASYNC240 - nothing else runs yet
    storage = RefreshTokenStorage("tokens.db", encryption_key=KEY)
    with pytest.raises(TokenStorageError, match="working directory is gone"):
        await storage.initialize()
    async with RefreshTokenStorage(here.parent / "there" / "tokens.db", encryption_key=KEY):
        pass


async def test_a_store_that_is_opened_again_uses_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings name a relative path; after a change of the folder they would name another."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TOKEN_STORAGE_DB", "tokens.db")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    monkeypatch.chdir(tmp_path / "one")
    storage = RefreshTokenStorage()
    async with storage:
        await storage.store_refresh_token("alice", "secret")
    monkeypatch.chdir(tmp_path / "two")
    async with storage:
        assert await storage.list_user_ids() == ["alice"]
    assert not (tmp_path / "two" / "tokens.db").exists()
