"""Errors of SQLite and of the operating system have one code each, and no value of a row."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError, StatementError

from nextcloud_mcp_server.backends.sqlite.errors import always_named, named, naming
from nextcloud_mcp_server.errors import CODES, TokenStorageError
from tests.support.errors import refused
from tests.support.unprivileged import as_nobody, open_folder

PATH = Path("/data/tokens.db")

#: Primary result codes and the error code of each.
NAMED = {
    "SQLITE_PERM": "read-only",
    "SQLITE_BUSY": "lock-timeout",
    "SQLITE_LOCKED": "lock-timeout",
    "SQLITE_PROTOCOL": "lock-timeout",
    "SQLITE_READONLY": "read-only",
    "SQLITE_IOERR": "io-error",
    "SQLITE_CORRUPT": "corrupt",
    "SQLITE_FULL": "disk-full",
    "SQLITE_CANTOPEN": "bad-path",
    "SQLITE_TOOBIG": "bad-input",
    "SQLITE_CONSTRAINT": "bad-input",
    "SQLITE_NOTADB": "not-a-database",
}


def sqlite_error(name: str, text: str = "text of SQLite") -> sqlite3.Error:
    """Return the error that the driver raises for a result code."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


#: The families of result codes; the driver has other constants with the same prefix.
FAMILIES = re.compile(
    "SQLITE_(ERROR|INTERNAL|PERM|ABORT|BUSY|LOCKED|NOMEM|READONLY|INTERRUPT|IOERR|CORRUPT|NOTFOUND"
    "|FULL|CANTOPEN|PROTOCOL|EMPTY|SCHEMA|TOOBIG|CONSTRAINT|MISMATCH|MISUSE|NOLFS|FORMAT|RANGE"
    "|NOTADB)(_.*)?"
)

ALL_CODES = sorted(name for name in dir(sqlite3) if FAMILIES.fullmatch(name))


@pytest.mark.parametrize("name", ALL_CODES)
def test_a_result_code_has_the_code_of_its_family(name: str) -> None:
    """Extended codes have the error code of their family; other families have none."""
    family = f"SQLITE_{name.split('_')[1]}"
    expected = NAMED.get(family)
    if name in {"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
        expected = "conflict"
    if name == "SQLITE_CONSTRAINT_TRIGGER":
        expected = "ignored"
    found = named(sqlite_error(name), PATH)
    assert (found.code if found else None) == expected
    if found:
        assert str(PATH) in found.message
        assert found.remedy


@pytest.mark.parametrize(
    ("text", "code"),
    [("UNIQUE constraint failed: t.c", "conflict"), ("CHECK constraint failed: c", "bad-input")],
)
def test_a_driver_without_extended_codes_has_only_the_text(text: str, code: str) -> None:
    """If the driver reports the primary code alone, the text tells a taken key."""
    found = named(sqlite_error("SQLITE_CONSTRAINT", text), PATH)
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_has_a_code(number: int) -> None:
    """The disk is full, read-only, the path is bad, or else it is an I/O error."""
    found = named(OSError(number, "text of the system"), PATH)
    assert found is not None
    assert found.code in {"disk-full", "read-only", "bad-path", "io-error"}
    assert found.code in CODES


def test_an_error_wrapped_by_sqlalchemy_has_the_same_code() -> None:
    """The result code of SQLite decides."""
    wrapped = IntegrityError("INSERT ...", {}, sqlite_error("SQLITE_CONSTRAINT_UNIQUE"))
    found = named(wrapped, PATH)
    assert found is not None
    assert found.code == "conflict"


def test_other_errors_are_not_translated() -> None:
    """Errors of other code pass through, and an error with a code is returned as it is."""
    own = TokenStorageError("mine", code="bad-input", remedy="none")
    assert named(own, PATH) is own
    for other in (ValueError("x"), KeyError("y"), RuntimeError()):
        assert named(other, PATH) is None
        assert always_named(other, PATH) is None
    with pytest.raises(ValueError, match="x"), naming(PATH):
        raise ValueError("x")


def test_naming_raises_from_the_cause() -> None:
    """The original error is the cause."""
    cause = sqlite_error("SQLITE_FULL")

    def fail() -> None:
        with naming(PATH):
            raise cause

    error = refused(fail)
    assert error.code == "disk-full"
    assert error.__cause__ is cause


def test_a_decoding_error_is_damage() -> None:
    """A flipped byte in a schema page is a decoding error in Python."""
    found = named(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), PATH)
    assert found is not None
    assert found.code == "corrupt"


def test_every_sqlite_error_of_the_running_store_has_a_code() -> None:
    """The statements fit the schema, so that SQLITE_ERROR means that the schema has changed."""
    for error, code in (
        (sqlite_error("SQLITE_ERROR", "no such table: refresh_tokens"), "inconsistent"),
        (sqlite_error("SQLITE_ERROR", "Could not decode to UTF-8 column 'x'"), "unreadable"),
    ):
        found = always_named(error, PATH)
        assert found is not None
        assert found.code == code


def test_no_statement_or_value_is_in_a_message() -> None:
    """The statement and the values in an error of SQLAlchemy are not repeated."""
    secret = "gAAAA-secret"
    inner = sqlite_error("SQLITE_CONSTRAINT_NOTNULL", "NOT NULL constraint failed: t.c")
    for wrapped in (
        IntegrityError(f"INSERT {secret}", {"v": secret}, inner),
        StatementError(secret, f"INSERT {secret}", {"v": secret}, inner),
    ):
        found = always_named(wrapped, PATH)
        assert found is not None
        assert secret not in f"{found.as_dict()}"


def test_a_command_in_a_remedy_can_be_typed() -> None:
    """The path of a damaged file is quoted in the command, and plain in the message."""
    path = Path("/data/it's; rm -rf x.db")
    error = named(sqlite_error("SQLITE_CORRUPT"), path)
    assert error is not None
    assert str(path) in error.message
    quoted = shlex.quote(str(path))
    assert f" -d {quoted}; without a backup try: sqlite3 {quoted} " in error.remedy


def test_an_io_error_on_a_full_disk_is_disk_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite reports an I/O error if there is no space for the shared memory of a WAL."""
    error, path = sqlite_error("SQLITE_IOERR_SHMSIZE"), tmp_path / "tokens.db"

    def code() -> str | None:
        found = named(error, path)
        return found.code if found else None

    assert code() == "io-error"
    disk = list(os.statvfs(tmp_path))
    free = os.statvfs_result([*disk[:3], 7, 7, *disk[5:]])
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    assert code() == "disk-full"


def test_an_unreadable_file_is_named() -> None:
    """The message has its owner and mode, and does not blame the folder."""
    code = """
from tests.support.by_path import inspect
try:
    inspect(Path(sys.argv[1]))
except TokenStorageError as error:
    print(error.code, error.message, error.remedy)
"""
    with open_folder() as folder:
        path = folder / "tokens.db"
        path.write_bytes(b"x" * 512)
        path.chmod(0o600)
        output = as_nobody(code, path)
    assert output.startswith(f"bad-path {path} cannot be read by this user (it belongs to user ")
    assert ", its mode is 0600)" in output
    assert "folder is there" not in output
