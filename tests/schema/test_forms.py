"""The form of a stored value is the same in Python and in the SQL of each engine."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import Text, column
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from nextcloud_mcp_server.crypto.binding import hashed, is_hashed
from nextcloud_mcp_server.crypto.key import Key, decoded, is_v2, key_id
from nextcloud_mcp_server.schema.conditions import HasForm
from nextcloud_mcp_server.schema.forms import HASH, SECOND, Form
from nextcloud_mcp_server.schema.tables import Ciphertext
from tests.support.postgresql import Server

KEY = Key(bytes(range(1, 33)))
DIGITS = "Az09-_" * 20

#: Values with the form of the second format, and others that begin alike.
SEALED = [
    *(KEY.seal(b"x" * n, b"row").decode() for n in range(4)),
    # Not ours, but nobody can tell without our keys.
    f"v2.{DIGITS[:64]}",
    f"v2.{DIGITS[:66]}",
    f"v2.{'A' * 65}B",
]
ALIKE = [
    *("", "v2.", "v2.public.eyJzdWIiOiJhbGljZSJ9", f"v2.public.{DIGITS[:64]}", f"v2.{DIGITS[:63]}"),
    *(f"v2.{DIGITS[:65]}", f"v2x{DIGITS[:64]}", f"V2.{DIGITS[:64]}", f" v2.{DIGITS[:64]}"),
    *(f"v2.{DIGITS[:64]}{end}" for end in ("==", "\n", "\n\n", "..", "**", "  ", "ä", "ää", "++")),
    *(
        f"v2.{DIGITS[:32]}{odd}{DIGITS[:32]}"
        for odd in ("..", "\n\n", "//", "öö", "^^", "]]", "``")
    ),
]
HASHES = [hashed("an id"), f"sha256:{DIGITS[:43]}"]
STATES = [
    *("sha256:", "sha256:chosen-by-a-client", f"sha256:{DIGITS[:42]}", f"sha256:{DIGITS[:44]}"),
    *(f"sha256:{DIGITS[:42]}{end}" for end in ("=", "\n", ".", "ä")),
    *(f"SHA256:{DIGITS[:43]}", f"sha256.{DIGITS[:43]}", f"sha256:{DIGITS[:43]}\n"),
]
VALUES = [*SEALED, *ALIKE, *HASHES, *STATES]
FORMS = pytest.mark.parametrize("form", [SECOND, HASH], ids=["second", "hash"])


def test_the_form_of_the_second_format() -> None:
    """All of a value is of the form, and what is encrypted here always is."""
    assert [value for value in VALUES if is_v2(value.encode())] == SEALED
    assert [value for value in VALUES if SECOND.matches(value)] == SEALED
    # Also with a last digit that is never written, and of a text that was cut off.
    assert all(key_id(value.encode()) is not None for value in SEALED)
    assert key_id(SEALED[0][:20].encode()) == KEY.id
    assert key_id(b"v2.public.eyJzdWIiOiJhbGljZSJ9") is None
    assert all(decoded(value.encode()) is None for value in ALIKE)


def test_the_form_of_a_hash() -> None:
    """A state that a client chose, which begins alike, is no hash."""
    assert [value for value in VALUES if is_hashed(value)] == HASHES


@FORMS
@pytest.mark.parametrize("kind", [str, bytes], ids=["TEXT", "BLOB"])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_in_a_file(encoding: str, kind: type, form: Form) -> None:
    """SQLite finds the same values, stored as BLOB or as TEXT, in each encoding of a file."""
    values = [*VALUES, f"v2.{DIGITS[:64]}\0", f"v2.{DIGITS[:64]}\0\0.", f"{HASHES[0]}\0"]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute("CREATE TABLE texts (value)")
        stored = [value.encode() if kind is bytes else value for value in values]
        connection.executemany("INSERT INTO texts VALUES (?)", [(one,) for one in stored])
        # What no text can be: bytes of no character, and other types.
        connection.execute("INSERT INTO texts VALUES (NULL), (2), (2.5), (x''), (x'76322eff')")
        condition = HasForm(column("value", Text), form).compile(dialect=SQLiteDialect())
        found = connection.execute(f"SELECT value FROM texts WHERE {condition}").fetchall()
    texts = [one.decode() if isinstance(one, bytes) else one for (one,) in found]
    assert texts == [value for value in values if form.matches(value)]


@FORMS
@pytest.mark.parametrize("kind", [str, bytes], ids=["text", "bytea"])
def test_on_a_server(kind: type, form: Form, postgresql_server: Server) -> None:
    """PostgreSQL finds the same values, in a column of texts and in one of bytes."""
    of = Ciphertext() if kind is bytes else Text()
    condition = HasForm(column("value", of), form).compile(dialect=PGDialect_psycopg())  # type: ignore[no-untyped-call]
    with psycopg.connect(postgresql_server.url()) as connection:
        connection.execute(
            f"CREATE TEMPORARY TABLE texts (value {'bytea' if kind is bytes else 'text'})"
        )
        stored = [value.encode() if kind is bytes else value for value in VALUES]
        if kind is bytes:
            stored += [b"v2." + b"\xff" * 64, b"v2." + b"\0" * 64, b"v2." + b"\\" * 64]
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO texts VALUES (%s)", [(one,) for one in stored])
        found = connection.execute(f"SELECT value FROM texts WHERE {condition}").fetchall()
    texts = [one.decode() if isinstance(one, bytes) else one for (one,) in found]
    assert sorted(texts) == sorted(value for value in VALUES if form.matches(value))
