"""Settings are read once, checked, frozen, and hide the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server import settings as module
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import (
    DEFAULT_LOCK_TIMEOUT,
    Settings,
    database_path,
    load_settings,
    split_keys,
    wants_colour,
)
from tests.support.errors import attempt, refused
from tests.support.unprivileged import as_nobody, open_folder

GIVEN = {"TOKEN_STORAGE_DB": "/data/tokens.db"}

file_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name.strip() and name not in {".", "..", ":memory:"}
)


@given(st.lists(st.text(st.characters(exclude_characters=";"))))
def test_a_list_of_keys_is_split_and_trimmed(parts: list[str]) -> None:
    """Each part counts once, in order, without its white space; empty parts do not count."""
    assert split_keys(";".join(parts)) == tuple(p.strip() for p in parts if p.strip())


@given(file_names)
def test_a_plain_path_is_taken_to_the_letter(name: str) -> None:
    """No character of a path is an escape, a wildcard or the beginning of parameters."""
    assert database_path(f"/data/{name}") == Path(f"/data/{name}")
    assert database_path(Path(f"/data/{name}")) == Path(f"/data/{name}")


@given(file_names, st.sampled_from(["sqlite", "sqlite+aiosqlite", "SQLite+pysqlite"]))
def test_a_url_names_a_file_by_its_escapes(name: str, scheme: str) -> None:
    """Whatever a file is called, its escaped name in a URL names it."""
    assert database_path(f"{scheme}:////data/{quote(name)}") == Path(f"/data/{name}")


@given(st.text(max_size=30))
def test_any_text_is_a_path_or_a_named_error(text: str) -> None:
    """Nothing that somebody types ends in anything but a path or an error with a remedy."""
    found = attempt(lambda: database_path(text))
    if isinstance(found, TokenStorageError):
        assert found.code in {"bad-path", "unsupported-database"}
        assert found.remedy


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:hunter2@db/x",
        "postgresql+psycopg://anna:hunter2@db/x",
        "oracle+cx_oracle://anna:hunter2@db/x",
        "mysql://anna:hunter2@db/x?password=hunter2",
        "sqlite://anna:hunter2@db/x",
        "my db://anna:hunter2@db/x",
        " postgresql://anna:hunter2@db/x",
        "hunter2",
    ],
)
def test_the_url_of_another_engine_is_refused_without_its_password(url: str) -> None:
    """No part of a URL that may be a password is repeated, and no file is named after it."""
    with pytest.raises(TokenStorageError) as caught:
        load_settings({"DATABASE_URL": url})
    assert caught.value.code in {"unsupported-database", "bad-path"}
    assert "hunter2" not in f"{caught.value.as_dict()}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://db/x",
        "sqlite:///",
        "sqlite:////data/x?mode=ro",
        "sqlite://host/x",
        "sqlite:///:memory:",
        "tokens.db",
    ],
)
@pytest.mark.parametrize("path", ["", "/data/tokens.db"])
def test_the_remedy_for_a_url_of_the_environment_names_its_variable(url: str, path: str) -> None:
    """It wins over the path, so to set the path is none: it is to be unset, which is enough."""
    environ = {"DATABASE_URL": url, "TOKEN_STORAGE_DB": path}
    error = refused(lambda: load_settings(environ))
    assert error.remedy == (
        "Unset DATABASE_URL, which wins over TOKEN_STORAGE_DB, or set it to a URL of a file: "
        "sqlite:////app/data/tokens.db."
    )
    assert error.__cause__ is None, "a traceback tells it once"
    del environ["DATABASE_URL"]
    assert load_settings(environ).source == ("TOKEN_STORAGE_DB" if path else "")


@pytest.mark.parametrize("scheme", ["oracle+cx_oracle", "postgresql", "my.engine", "MySQL"])
def test_a_url_is_no_path(scheme: str) -> None:
    """A URL that is typed where a path goes is another engine's, and no folder of that name."""
    error = refused(lambda: database_path(f"{scheme}://anna:hunter2@db/x"))
    assert error.code == "unsupported-database"
    assert "hunter2" not in f"{error.as_dict()}"


@pytest.mark.parametrize(
    "text",
    ["", "  ", "sqlite://", ":memory:", "sqlite:///:memory:", "file:x?mode=memory", "a\0b"],
)
def test_what_is_no_file_is_refused(text: str) -> None:
    """An empty path, a database in memory and a URI are refused, not opened."""
    with pytest.raises(TokenStorageError) as caught:
        database_path(text)
    assert caught.value.code == "bad-path"


class _Bytes:
    """A path of bytes."""

    def __fspath__(self) -> bytes:
        return b"tokens.db"

    # The name of a test must be the same in every process.
    def __repr__(self) -> str:
        return "a path of bytes"


@pytest.mark.parametrize("given", [5, b"tokens.db", _Bytes(), ["tokens.db"]], ids=repr)
def test_what_is_no_text_names_no_database(given: Any) -> None:
    """A path is text, or gives text: anything else is refused by its type."""
    error = refused(lambda: database_path(given))
    assert error.code == "bad-path"
    assert "not text" in error.message


@given(st.floats(0, 1e9))
def test_a_number_of_seconds_is_a_timeout(seconds: float) -> None:
    """Every number from 0 up is taken as it stands."""
    environ = GIVEN | {"TOKEN_STORAGE_LOCK_TIMEOUT": repr(seconds)}
    assert load_settings(environ).lock_timeout == seconds


@given(st.text())
def test_no_other_text_is_a_timeout(text: str) -> None:
    """A timeout is a finite number of seconds that is not negative, or a named error."""
    environ = GIVEN | {"TOKEN_STORAGE_LOCK_TIMEOUT": text}
    found = attempt(lambda: load_settings(environ).lock_timeout)
    if isinstance(found, TokenStorageError):
        assert found.code == "bad-input"
        assert text
    else:
        assert 0 <= found < float("inf")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e999", "ten", "1,5"])
def test_a_timeout_that_is_none_is_refused(text: str) -> None:
    """What is not a number of seconds is told, with the text that stood there."""
    with pytest.raises(TokenStorageError, match="not a number of seconds") as caught:
        load_settings(GIVEN | {"TOKEN_STORAGE_LOCK_TIMEOUT": text})
    assert caught.value.code == "bad-input"


def test_an_empty_variable_counts_as_unset() -> None:
    """A variable that a compose file sets to nothing is not there."""
    names = ("DATABASE_URL", "TOKEN_ENCRYPTION_KEY", "TOKEN_ENCRYPTION_KEY_FILE")
    environ = GIVEN | dict.fromkeys((*names, "TOKEN_STORAGE_LOCK_TIMEOUT"), "")
    assert load_settings(environ) == Settings(Path("/data/tokens.db"), source="TOKEN_STORAGE_DB")


def test_every_variable_is_read() -> None:
    """The URL wins over the path; keys, their file and the timeout are taken along."""
    found = load_settings(
        {
            "DATABASE_URL": "sqlite:////data/url.db",
            "TOKEN_STORAGE_DB": "/data/path.db",
            "TOKEN_ENCRYPTION_KEY": " new ; old;",
            "TOKEN_ENCRYPTION_KEY_FILE": "/run/secrets/key",
            "TOKEN_STORAGE_LOCK_TIMEOUT": "2.5",
        }
    )
    keys, key_file = ("new", "old"), Path("/run/secrets/key")
    assert found == Settings(
        Path("/data/url.db"), keys, key_file, 2.5, None, "DATABASE_URL", "/data/path.db"
    )


def test_a_given_database_wins_over_an_unusable_environment() -> None:
    """What somebody types is used, however wrong the environment is."""
    found = load_settings({"DATABASE_URL": "postgresql://x"}, database="/data/mine.db")
    assert (found.database, found.source) == (Path("/data/mine.db"), "")
    assert found.lock_timeout == DEFAULT_LOCK_TIMEOUT


def test_another_database_keeps_the_rest() -> None:
    """Keys and timeout stay when another database is taken."""
    found = Settings(Path("a"), ("k",), Path("f"), 3.0, Path("b"), "TOKEN_STORAGE_DB")
    assert found.with_database("c") == Settings(Path("c"), ("k",), Path("f"), 3.0)


def test_settings_hide_their_keys_and_do_not_change() -> None:
    """Whoever prints the settings sees how many keys there are, and nobody changes them."""
    found = Settings(Path("tokens.db"), ("first-secret", "second-secret"))
    assert "secret" not in repr(found)
    assert "<2>" in repr(found)
    with pytest.raises(AttributeError):
        found.lock_timeout = 1.0  # type: ignore[misc]


def test_without_a_variable_the_containers_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the default folder is there, or can be made, the default is used; nothing is made."""
    for folder in (tmp_path, tmp_path / "not" / "there"):
        monkeypatch.setattr(module, "DEFAULT_DATABASE", folder / "tokens.db")
        found = load_settings({})
        assert (found.database, found.fallback_from) == (folder / "tokens.db", None)
    assert list(tmp_path.iterdir()) == []


def test_where_the_containers_folder_cannot_be_the_users_own_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that is no container keeps tokens in the user's data folder, and says so."""
    (tmp_path / "app").touch()
    default = tmp_path / "app" / "data" / "tokens.db"
    monkeypatch.setattr(module, "DEFAULT_DATABASE", default)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    found = load_settings({})
    assert found.fallback_from == default
    assert found.database.name == "tokens.db"
    assert found.database != default


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_folder_of_somebody_else_is_no_place_for_tokens(mode: int) -> None:
    """A folder that this user may not write to, or not even look into, is passed by."""
    code = """
settings.DEFAULT_DATABASE = Path(sys.argv[1])
print(settings.load_settings({"HOME": "/"}).fallback_from)
"""
    with open_folder() as folder:
        (folder / "app").mkdir()
        (folder / "app").chmod(mode)
        default = folder / "app" / "data" / "tokens.db"
        assert as_nobody(code, default) == str(default)


def test_colours_can_be_refused() -> None:
    """NO_COLOR with any text in it means no colours; empty, it means nothing."""
    assert not wants_colour({"NO_COLOR": "0"})
    assert wants_colour({"NO_COLOR": ""})
    assert wants_colour({})
