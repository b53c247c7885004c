"""Settings are read once, checked and frozen, and their keys are hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.paths import database_path
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.secret import Secret
from nextcloud_mcp_server.settings import (
    DEFAULT_LOCK_TIMEOUT,
    Settings,
    load_settings,
    pool_size,
    split_keys,
)
from nextcloud_mcp_server.settings import store as module
from nextcloud_mcp_server.settings.process import wants_colour
from tests.support.errors import attempt, refused, refuses
from tests.support.unprivileged import as_nobody, open_folder

GIVEN = {"TOKEN_STORAGE_DB": "/data/tokens.db"}


@given(st.lists(st.text(st.characters(exclude_characters=";"))))
def test_a_list_of_keys_is_split_and_trimmed(parts: list[str]) -> None:
    """Parts keep their order and lose their white space; empty parts are dropped."""
    assert split_keys(Secret(";".join(parts))) == tuple(p.strip() for p in parts if p.strip())


ENGINES = ("postgresql+asyncpg", "oracle+cx_oracle", "mysql", "MySQL", "my.engine")


@pytest.mark.parametrize(
    ("url", "code"),
    [
        *((f"{engine}://anna:hunter2@db/x", "unsupported-database") for engine in ENGINES),
        ("mysql://anna:hunter2@db/x?password=hunter2", "unsupported-database"),
        ("sqlite://anna:hunter2@db/x", "bad-path"),
        ("my db://anna:hunter2@db/x", "bad-path"),
        (" postgresql://anna:hunter2@db/x", "bad-input"),
        ("hunter2", "bad-path"),
    ],
)
def test_the_url_of_another_engine_is_refused_without_its_password(url: str, code: str) -> None:
    """It is refused as a URL and in place of a path, and no error has a possible password."""
    errors = [refused(lambda: load_settings({"DATABASE_URL": url}))]
    if code == "unsupported-database":
        errors.append(refused(lambda: database_path(url)))
    for error in errors:
        assert error.code == code
        assert "hunter2" not in f"{error.as_dict()}"


@pytest.mark.parametrize(
    "url",
    [
        "mysql://db/x",
        "sqlite:///",
        "sqlite:////data/x?mode=ro",
        "sqlite://host/x",
        "sqlite:///:memory:",
        "tokens.db",
    ],
)
@pytest.mark.parametrize("path", ["", "/data/tokens.db"])
def test_the_remedy_for_a_url_of_the_environment_names_its_variable(url: str, path: str) -> None:
    """The remedy is to unset DATABASE_URL, because it wins over the path; that is enough."""
    environ = {"DATABASE_URL": url, "TOKEN_STORAGE_DB": path}
    error = refused(lambda: load_settings(environ))
    assert error.remedy == (
        "Unset DATABASE_URL, which wins over TOKEN_STORAGE_DB, or set it to a URL of a file: "
        "sqlite:////app/data/tokens.db, or of a server: postgresql://user@host/database."
    )
    assert error.__cause__ is None, "a traceback shows it once"
    del environ["DATABASE_URL"]
    assert load_settings(environ).source == ("TOKEN_STORAGE_DB" if path else "")


@given(st.floats(0, 1e9))
def test_a_number_of_seconds_is_a_timeout(seconds: float) -> None:
    """Every number from 0 up is accepted."""
    environ = GIVEN | {"TOKEN_STORAGE_LOCK_TIMEOUT": repr(seconds)}
    assert load_settings(environ).lock_timeout == seconds


@given(st.text())
@example("nan")
@example("inf")
@example("-1")
@example("1e999")
@example("ten")
def test_any_text_is_a_timeout_or_a_named_error(text: str) -> None:
    """Any text gives a finite number from 0 up, or an error."""
    environ = GIVEN | {"TOKEN_STORAGE_LOCK_TIMEOUT": text}
    result = attempt(lambda: load_settings(environ).lock_timeout)
    if isinstance(result, TokenStorageError):
        assert result.code == "bad-input"
        assert "not a number of seconds" in result.message
        assert text
    else:
        assert 0 <= result < float("inf")


def test_an_empty_variable_counts_as_unset() -> None:
    """A compose file may set a variable to nothing."""
    names = ("DATABASE_URL", "TOKEN_ENCRYPTION_KEY", "TOKEN_ENCRYPTION_KEY_FILE")
    environ = GIVEN | dict.fromkeys((*names, "TOKEN_STORAGE_LOCK_TIMEOUT"), "")
    assert load_settings(environ) == Settings(Path("/data/tokens.db"), source="TOKEN_STORAGE_DB")


def test_every_variable_is_read() -> None:
    """The URL wins over the path; the other variables are read too."""
    read = load_settings(
        {
            "DATABASE_URL": "sqlite:////data/url.db",
            "TOKEN_STORAGE_DB": "/data/path.db",
            "TOKEN_ENCRYPTION_KEY": " new ; old;",
            "TOKEN_ENCRYPTION_KEY_FILE": "/run/secrets/key",
            "TOKEN_STORAGE_LOCK_TIMEOUT": "2.5",
        }
    )
    keys, key_file = ("new", "old"), Path("/run/secrets/key")
    assert read == Settings(
        Path("/data/url.db"), keys, key_file, 2.5, None, "DATABASE_URL", "/data/path.db"
    )


def test_a_given_database_wins_over_an_unusable_environment() -> None:
    """A path that was passed in is used even if the environment is invalid."""
    read = load_settings({"DATABASE_URL": "postgresql://x"}, database="/data/mine.db")
    assert (read.database, read.source) == (Path("/data/mine.db"), "")
    assert read.lock_timeout == DEFAULT_LOCK_TIMEOUT


def test_another_database_keeps_the_rest() -> None:
    """Settings for another database keep their keys and timeout."""
    some = Settings(Path("a"), ("k",), Path("f"), 3.0, Path("b"), "TOKEN_STORAGE_DB")
    assert some.with_database("c") == Settings(Path("c"), ("k",), Path("f"), 3.0)


def test_settings_hide_their_keys_and_do_not_change() -> None:
    """The repr shows the number of keys only, and no attribute can be set."""
    some = Settings(Path("tokens.db"), ("first-secret", "second-secret"))
    assert "secret" not in repr(some)
    assert "<2>" in repr(some)
    with pytest.raises(AttributeError):
        some.lock_timeout = 1.0  # type: ignore[misc]


def test_without_a_variable_the_containers_folder_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is used if its folder exists or can be created; nothing is created."""
    for folder in (tmp_path, tmp_path / "not" / "there"):
        monkeypatch.setattr(module, "DEFAULT_DATABASE", folder / "tokens.db")
        read = load_settings({})
        assert (read.database, read.fallback_from) == (folder / "tokens.db", None)
    assert list(tmp_path.iterdir()) == []


def test_the_users_folder_is_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a container the user's data folder is used, and the default is named."""
    (tmp_path / "app").touch()
    default = tmp_path / "app" / "data" / "tokens.db"
    monkeypatch.setattr(module, "DEFAULT_DATABASE", default)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    read = load_settings({})
    assert read.fallback_from == default
    assert read.file.name == "tokens.db"
    assert read.database != default


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_folder_of_another_user_is_not_used(mode: int) -> None:
    """A folder that this user cannot write to, or cannot read, is not used."""
    code = """
settings.store.DEFAULT_DATABASE = Path(sys.argv[1])
print(settings.load_settings({"HOME": "/"}).fallback_from)
"""
    with open_folder() as folder:
        (folder / "app").mkdir()
        (folder / "app").chmod(mode)
        default = folder / "app" / "data" / "tokens.db"
        assert as_nobody(code, default) == str(default)


@pytest.mark.parametrize("given", ["a/t.db", "sqlite:///a/t.db", Path("a/t.db")], ids=str)
def test_a_relative_path_is_made_absolute_where_it_is_named(
    given: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory of that moment is part of the database's path, whatever follows."""
    monkeypatch.chdir(tmp_path)
    wanted = tmp_path / "a" / "t.db"
    variable = "DATABASE_URL" if "://" in str(given) else "TOKEN_STORAGE_DB"
    every = [
        load_settings({}, database=given),
        load_settings({variable: str(given), "TOKEN_ENCRYPTION_KEY_FILE": "a/key"}),
        Settings(Path("x")).with_database(given),
        Settings(wanted.relative_to(tmp_path), key_file=Path("a/key")),
    ]
    assert [read.database for read in every] == [wanted] * 4
    assert [read.key_file for read in every] == [None, tmp_path / "a/key", None, tmp_path / "a/key"]


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that begins with ~ is one below a home folder, as in a shell."""
    monkeypatch.setenv("HOME", "/home/anna")
    environ = {"TOKEN_STORAGE_DB": "~/t.db", "TOKEN_ENCRYPTION_KEY_FILE": "~/key"}
    read = load_settings(environ)
    assert (read.database, read.key_file) == (Path("/home/anna/t.db"), Path("/home/anna/key"))
    for text in ("~/t.db", "sqlite:///~/t.db", Path("~/t.db")):
        assert database_path(text) == Path("/home/anna/t.db")
    assert database_path("./~/t.db") == Path.cwd() / "~" / "t.db"


@pytest.mark.parametrize("home", ["", "not/absolute"])
@pytest.mark.parametrize("name", ["TOKEN_STORAGE_DB", "TOKEN_ENCRYPTION_KEY_FILE"])
def test_an_unknown_home_folder_is_refused(
    name: str, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path below the home folder of nobody is no relative path."""
    monkeypatch.setenv("HOME", home)
    given = "~/t.db" if home else "~no-such-user/t.db"
    refused(lambda: load_settings(GIVEN | {name: given}), "bad-path", given)


@pytest.mark.parametrize("found", [Path("~/.local/share/x"), Path("x"), RuntimeError, KeyError, ""])
def test_a_default_is_never_relative(
    found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever platformdirs does without a home folder, the remedy is to set the variable."""

    def data_path(_: str) -> Path:
        if isinstance(found, Path):
            return found
        raise found() if found else OSError(2, "no such user")

    monkeypatch.setattr(module, "DEFAULT_DATABASE", tmp_path / "not" / "there")
    monkeypatch.setattr(module, "_can_hold_data", lambda _: False)
    monkeypatch.setattr("platformdirs.user_data_path", data_path)
    error = refused(lambda: load_settings({}), "bad-path")
    assert "Set TOKEN_STORAGE_DB" in error.remedy


def test_a_user_without_a_home_is_told_to_set_the_variable() -> None:
    """A container's arbitrary user, with no HOME and no entry in the list of users, is one."""
    code = """
os.environ.pop("HOME", None)
os.chdir(sys.argv[1])
try:
    print(settings.load_settings({}).database)
except TokenStorageError as error:
    print(error.code, error.remedy)
"""
    with open_folder() as folder:
        folder.chmod(0o777)
        printed = as_nobody(code, folder, user=12345)
    assert printed.startswith("bad-path Set TOKEN_STORAGE_DB"), printed


def test_a_relative_path_needs_a_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the working directory was deleted, a relative path is refused, and no other one is."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    error = refused(lambda: load_settings({"TOKEN_STORAGE_DB": "tokens.db"}), "bad-path")
    assert "working directory is gone" in error.message
    assert load_settings(GIVEN).database == Path("/data/tokens.db")


def test_no_color_disables_colours() -> None:
    """NO_COLOR with any text disables colours; an empty one does not."""
    assert not wants_colour({"NO_COLOR": "0"})
    assert wants_colour({"NO_COLOR": ""})
    assert wants_colour({})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:hunter2@db/x",
        "postgres://anna:hunter2@db/x",
        "postgresql+psycopg://anna:hunter2@db/x",
        "PostgreSQL://anna:hunter2@one:5432,two:5433/x?target_session_attrs=read-write",
        "postgresql://anna@db/x?password=hunter2&sslmode=require",
        "postgresql://anna:hunter2%40@db/x?sslpassword=hunter2",
        "postgresql://anna:hunter2?hunter2@db/x",
        "postgresql://anna@db/x?pasword=hunter2",
        "postgresql://?service=tokens&password=hunter2",
    ],
)
def test_the_url_of_a_server_is_taken_and_never_shows_its_password(url: str) -> None:
    """Its text, its repr, its option and the settings have no password; the driver gets it."""
    settings = load_settings({"DATABASE_URL": url})
    place = settings.database
    assert isinstance(place, ServerUrl)
    assert "hunter2" in place.conninfo
    assert place.conninfo.startswith("postgresql://")
    assert "hunter2" not in f"{place} {place!r} {place.option} {settings!r}"
    assert place.option == '-u "$DATABASE_URL"'
    assert "hunter2" not in ServerUrl(url).option
    assert "password" not in ServerUrl(url).option
    assert settings.with_database(place).database == place
    with refuses("unsupported-database"):
        _ = settings.file


def test_a_server_url_without_a_password_is_named_as_it_is() -> None:
    """A command in a remedy can be typed as it is."""
    assert ServerUrl("postgres://anna@db/x").option == "-u postgresql://anna@db/x"
    assert (
        ServerUrl("postgresql://db/x?host=b&port=1").option
        == "-u 'postgresql://db/x?host=b&port=1'"
    )


@pytest.mark.parametrize("size", ["0", "65", "eight", "-1", "1e1"])
def test_a_pool_size_out_of_range_is_refused(size: str) -> None:
    """A number from 1 to 64 is taken."""
    assert pool_size({"TOKEN_STORAGE_POOL_SIZE": "64"}) == 64
    assert pool_size({}) == 8
    with refuses("bad-input"):
        load_settings({**GIVEN, "TOKEN_STORAGE_POOL_SIZE": size})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://anna:hunter2@hunter2@db/x",
        "postgresql://anna:hunter2/hunter2@db/x",
        "postgresql://anna:hunter2@db/x\n",
        " postgresql://anna:hunter2@db/x",
        "postgresql://anna:hunter2@db/x\0",
    ],
)
def test_a_server_url_that_nobody_means_is_refused_without_its_password(url: str) -> None:
    """The remedy says how such a sign is written in a password."""
    errors = [
        refused(lambda: load_settings({"DATABASE_URL": url})),
        refused(lambda: load_settings({}, database=url)),
    ]
    for error in errors:
        assert error.code == "bad-input"
        assert "hunter2" not in f"{error.as_dict()}"
        assert "%40" in error.remedy
