"""The readiness of a server that does not have the key that encrypts its database."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.auth import context
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyfile import key_path
from nextcloud_mcp_server.errors import CODES
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.settings import Settings
from tests.maintenance.keys.helpers import NEW, NEWEST
from tests.support.contents import KEY


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, token_db: Path) -> str:
    """A database at head on each engine, with a secret."""
    name = str(token_db)
    if request.param == "postgresql":
        name = request.getfixturevalue("postgresql_server").schema_at_head()[1]

    async def store() -> None:
        async with RefreshTokenStorage(name, encryption_key=KEY) as storage:
            await storage.store_refresh_token("alice", "token")

    asyncio.run(store())
    return name


def test_a_server_without_the_promoted_key_is_not_ready_until_it_gets_it(
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A key that is only introduced changes nothing; a promoted one is read from the key file."""
    monkeypatch.setattr(context, "_PAUSE", 0.0)
    file = tmp_path / "keyfile"
    file.touch(0o600)
    file.write_text(KEY)
    settings = Settings(Path(), key_file=file).with_database(place)
    both = Settings(Path(), (NEW, KEY)).with_database(place)
    with TestClient(create_app(settings=settings, check_interval=0)) as client:
        assert client.get("/health/ready").status_code == 200
        introduce(both, NEWEST)
        assert client.get("/health/ready").status_code == 200
        promote(both, NEWEST)
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["reason"]) == (503, CODES["wrong-key"])
        assert f"needs key {NEWEST}" in caplog.text
        assert "[wrong-key]" in caplog.text
        file.write_text(f"{NEW}\n{KEY}\n")
        assert client.get("/health/ready").status_code == 200


def test_the_key_file_beside_the_database_is_named(
    token_db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server has an older key in its variable, and the promoted one lies in the file."""
    monkeypatch.setattr(context, "_PAUSE", 0.0)
    settings = Settings(token_db, (KEY,))
    with TestClient(create_app(settings=settings, check_interval=0)) as client:
        assert client.get("/health/ready").status_code == 200
        introduce(Settings(token_db, (NEW, KEY)), NEWEST)
        promote(Settings(token_db, (NEW, KEY)), NEWEST)
        beside = key_path(token_db)
        beside.touch(0o600)
        beside.write_text(NEW)
        assert client.get("/health/ready").status_code == 503
    [line] = [record.getMessage() for record in caplog.records if "Not ready" in record.msg]
    assert f"{beside} has the right key. Unset TOKEN_ENCRYPTION_KEY" in line
