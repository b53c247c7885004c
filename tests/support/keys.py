"""The registered keys of a database, changed as by another process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from nextcloud_mcp_server.backends.keys import RegisteredKey, registered_keys
from nextcloud_mcp_server.crypto.key import Key
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import (
    FERNET,
    FORMER,
    PRIMARY,
    RETIRED,
    V2,
    primary_check,
)
from tests.support.contents import KEY

_NEW = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, 2000000000)"


def promote(path: Path, key: str | bytes) -> None:
    """Make ``key`` the one that encrypts."""
    [made] = Keyring([key]).keys
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET state = ? WHERE state = ?", (FORMER, PRIMARY))
        row = (made.id, V2, PRIMARY, "", made.fingerprint)
        connection.execute(_NEW, row)
        _sign(connection, made)


def retire_released(path: Path, key: str | bytes = KEY) -> None:
    """Accept nothing any more that released versions have stored; ``key`` encrypts."""
    [made] = Keyring([key]).keys
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET state = ? WHERE kind = ?", (RETIRED, FERNET))
        _sign(connection, made)


def _sign(connection: sqlite3.Connection, key: Key) -> None:
    known = map(RegisteredKey.of, connection.execute(registered_keys("keys")))
    signed = (primary_check(key, known), key.id)
    connection.execute('UPDATE keys SET "check" = ? WHERE id = ?', signed)
