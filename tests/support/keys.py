"""The registered keys of a database, changed as by another process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import FERNET, FORMER, PRIMARY, RETIRED, V2
from nextcloud_mcp_server.crypto.registration import check_value as _check_value

_NEW = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, 2000000000)"


def promote(path: Path, key: str | bytes) -> None:
    """Make ``key`` the one that encrypts."""
    [made] = Keyring([key]).keys
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET state = ? WHERE state = ?", (FORMER, PRIMARY))
        row = (made.id, V2, PRIMARY, _check_value(made, V2), made.fingerprint)
        connection.execute(_NEW, row)


def retire_released(path: Path) -> None:
    """Accept nothing any more that released versions have stored."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE keys SET state = ? WHERE kind = ?", (RETIRED, FERNET))
