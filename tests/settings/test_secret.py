"""A key in the wrong setting is refused, and nothing that is printed has it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import holds_key
from nextcloud_mcp_server.settings import load_settings
from tests.cli.places import process
from tests.support.errors import refused

KEY = "Zm9vYmFyYmF6cXV4Zm9v-mFyYmF6_XV4MTIzNDU2Nzg="
PLAIN = KEY.replace("-", "+").replace("_", "/")
OTHER = base64.urlsafe_b64encode(bytes(range(32))).decode()

#: How a key may be given in place of a path.
FORMS = (
    *("{}", "'{}'", 'b"{}"', "b'{}'", "KEY={}", "TOKEN_ENCRYPTION_KEY={}", " {}", "{}\n"),
    *(f"{{}};{OTHER}", f"{OTHER},{{}}", "./{}", "/run/secrets/{}", "{}.key"),
)

URLS = ("sqlite:///{}", "sqlite:////data/{}", "sqlite://{}", "sqlite:///t.db?key={}")


@pytest.mark.parametrize("form", ["{}", "./{}", "/run/secrets/{}", "sqlite:///{}"])
def test_a_key_without_its_sign_is_named_too(form: str) -> None:
    """A double click selects all but the equals sign."""
    short = KEY.rstrip("=")
    for variable in ("TOKEN_ENCRYPTION_KEY_FILE", "TOKEN_STORAGE_DB", "DATABASE_URL"):
        if ("://" in form) != (variable == "DATABASE_URL"):
            continue
        value = form.format(short)
        error = refused(lambda variable=variable, value=value: load_settings({variable: value}))  # type: ignore[misc]
        assert "holds a key" in error.message
        assert short not in f"{error.as_dict()}"


@pytest.mark.parametrize("key", [KEY, PLAIN], ids=["urlsafe", "plain"])
@pytest.mark.parametrize("form", FORMS, ids=ascii)
def test_a_key_in_place_of_the_path_of_its_file_is_named(form: str, key: str) -> None:
    """The error names the variable, the remedy the one for a key, and neither has the key."""
    value = form.format(key)
    for variable, code in (
        ("TOKEN_ENCRYPTION_KEY_FILE", "malformed-key"),
        ("TOKEN_STORAGE_DB", "bad-path"),
        ("DATABASE_URL", "bad-path"),
    ):
        error = refused(lambda variable=variable: load_settings({variable: value}))  # type: ignore[misc]
        assert error.code == code
        assert error.message == f"{variable} holds a key, not the path of a file."
        assert "in TOKEN_ENCRYPTION_KEY, and unset" in error.remedy
    error = refused(lambda: load_settings({}, database=value))
    assert error.message == "The path of the database holds a key, not the path of a file."
    assert key not in f"{error.as_dict()}"


@pytest.mark.parametrize("form", URLS)
def test_a_key_in_a_url_is_not_printed(form: str) -> None:
    """No error about a URL with a key has the key, and no database of that name is made."""
    for key in (KEY, PLAIN, KEY.replace("=", "%3D")):
        url = form.format(key)
        for given in ({"DATABASE_URL": url}, {"TOKEN_STORAGE_DB": url}):
            error = refused(lambda given=given: load_settings(given))  # type: ignore[misc]
            assert key[:40] not in f"{error.as_dict()}"
        error = refused(lambda url=url: load_settings({}, database=url))  # type: ignore[misc]
        assert key[:40] not in f"{error.as_dict()}"


def test_a_file_that_is_named_like_a_key_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is not there is refused, and a Path too."""
    monkeypatch.chdir(tmp_path)
    assert refused(lambda: load_settings({}, database=tmp_path / KEY)).code == "bad-path"
    (tmp_path / KEY).touch()
    environ = {"TOKEN_STORAGE_DB": KEY, "TOKEN_ENCRYPTION_KEY_FILE": KEY}
    read = load_settings(environ)
    assert (read.database, read.key_file) == (tmp_path / KEY, tmp_path / KEY)
    assert load_settings({}, database=tmp_path / KEY).database == tmp_path / KEY
    assert load_settings({"DATABASE_URL": f"sqlite:///{KEY}"}).database == tmp_path / KEY


@pytest.mark.parametrize(
    "name",
    [
        "/srv/data/tenants/region/europe/customers/archive/tenant=5.db",
        f"{'a' * 44}.db",
        f"{'a' * 50}=.db",
        "a=b.db",
        "a" * 43,
        "tenant-2026-europe-customers-archive-number",
        "/data/year=2026/t.db",
    ],
)
def test_an_ordinary_name_is_no_key(name: str) -> None:
    """A long name, and one with an equals sign, are those of a file."""
    assert not holds_key(name)


COMMANDS = (
    *("db current", "db check", "db upgrade", "db doctor", "db doctor --json", "db history"),
    *("db backups", "db log", "db upgrade --dry-run", "keys list", "keys list --json"),
    *("keys rotate", "db current --json", "db upgrade --debug", "run --port 0"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_a_key(command: str, tmp_path: Path) -> None:
    """Neither output has a key that a setting for a path holds, and no file is made of it."""
    if command.startswith("run"):
        # A server would serve.
        variables = ["TOKEN_ENCRYPTION_KEY_FILE", "TOKEN_STORAGE_DB", "DATABASE_URL"]
    else:
        variables = ["TOKEN_ENCRYPTION_KEY_FILE", "TOKEN_STORAGE_DB", "DATABASE_URL", "-d", "-u"]
    for variable in variables:
        for key in (KEY, PLAIN):
            url = variable in {"DATABASE_URL", "-u"}
            value = f"sqlite:///{key}" if url else key
            arguments, environ = command.split(), {"TOKEN_STORAGE_DB": "t.db"}
            if variable.startswith("-"):
                arguments += [variable, value]
            else:
                environ |= {variable: value}
            done = process(*arguments, cwd=tmp_path, environ=environ)
            assert key not in done.out + done.err
            assert not any(key.startswith(path.name) for path in tmp_path.iterdir())


def test_a_path_that_another_setting_overrules_is_not_printed(tmp_path: Path) -> None:
    """The report of the doctor has no key either."""
    environ = {"DATABASE_URL": "sqlite:///t.db", "TOKEN_STORAGE_DB": KEY}
    for arguments in (("db", "upgrade"), ("db", "doctor"), ("db", "doctor", "--json")):
        done = process(*arguments, cwd=tmp_path, environ=environ)
        assert KEY not in done.out + done.err


@pytest.mark.parametrize(
    "variable",
    [
        *("TOKEN_STORAGE_TRUSTED_OWNERS", "TOKEN_STORAGE_FILESYSTEM", "AUDIT_RETENTION_DAYS"),
        *("TOKEN_STORAGE_LOCK_TIMEOUT",),
    ],
)
def test_no_other_setting_prints_a_key(variable: str) -> None:
    """The value in an error has no key, and no part of one."""
    error = refused(lambda: load_settings({"TOKEN_STORAGE_DB": "t.db", variable: KEY}))
    assert KEY[:12] not in f"{error.as_dict()}"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        *((path, "is a path, not a key") for path in ("/run/secrets/key", "./key", "~/key")),
        *((path, "is a path, not a key") for path in ("file:///run/secrets/key", "a/b.key")),
        *((name, "is a variable or a placeholder") for name in ("$KEY", "${KEY}", "%KEY%")),
        *((name, "is a variable or a placeholder") for name in ("$(cat k)", "{{ k }}", "<key>")),
        *((form, "has the name of a variable") for form in (f"KEY={KEY}", f"export KEY = {KEY}")),
        (f"TOKEN_ENCRYPTION_KEY: {KEY}", "has the name of a variable before it"),
        *((form, "is in quotation marks") for form in (f'"{KEY}"', f"'{KEY}'", f"{KEY}'")),
        (f"base64:{KEY}", "begins with base64:, which is no part of a key"),
        *((other, "is not 44 characters") for other in ("short=", KEY[1:], KEY[:-1], "a=", "a:b")),
        (f"{OTHER},{KEY}", "is not 44 characters"),
    ],
    ids=ascii,
)
def test_what_is_in_place_of_a_key_is_named(value: str, what: str) -> None:
    """The message says what it is, never the value; for a path the remedy names its variable."""
    error = refused(lambda: Keyring(value), "malformed-key")
    assert error.message.startswith(f"Encryption key 1 of 1 {what}")
    assert ("TOKEN_ENCRYPTION_KEY_FILE" in error.remedy) == ("path" in what)
    assert KEY[5:-1] not in f"{error.as_dict()}"


def test_the_key_file_is_one_file(tmp_path: Path) -> None:
    """Several files and a URL are named as such; a file of that name is used."""
    paths = [tmp_path / name for name in ("a", "b", "c,d")]
    for path in paths:
        path.touch()
    for separator in (";", ",", "; "):
        given = {"TOKEN_ENCRYPTION_KEY_FILE": f"{paths[0]}{separator}{paths[1]}"}
        error = refused(lambda given=given: load_settings(given))  # type: ignore[misc]
        assert error.message == "TOKEN_ENCRYPTION_KEY_FILE names 2 files, and only one is read."
    for url in ("file:///run/secrets/key", "file:key", "https://vault.example/key"):
        error = refused(lambda url=url: load_settings({"TOKEN_ENCRYPTION_KEY_FILE": url}))  # type: ignore[misc]
        assert error.message == "TOKEN_ENCRYPTION_KEY_FILE is a URL; a plain path is needed."
        assert error.code == "bad-path"
    for name in ("c,d", "e;f"):
        used = {"TOKEN_ENCRYPTION_KEY_FILE": str(tmp_path / name), "TOKEN_STORAGE_DB": "t.db"}
        assert load_settings(used).key_file == tmp_path / name
