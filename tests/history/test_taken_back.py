"""Each old database goes up, is encrypted for its rows, and goes back with every secret."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.secrets import sealed
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.key import is_v2
from nextcloud_mcp_server.crypto.keyring import Keyring, as_bytes
from nextcloud_mcp_server.schema.secrets import SECRETS, secrets_of
from tests.history import corpus, released_files
from tests.history.case import Case
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.errors import refused
from tests.support.facts import TABLES
from tests.support.keys import retire_released
from tests.support.snapshot import Snapshot, counted, snapshot

CASES = [
    case
    for case in (*released_files.recorded(), *corpus.all_cases())
    if not case.refusal and case.action != "create"
]

#: Tables that get rows, or another version, on the way.
GROWING = ("audit_logs", "alembic_version")


async def encrypt_for_rows(path: Path, key: str) -> int:
    """Encrypt each secret that ``key`` opens in the second format; return how many.

    Then Fernet is retired, as if all keys had been rotated.
    """
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        # The first secret registers the keys.
        await storage.store_refresh_token("first", "secret")
        await storage.delete_refresh_token("first")
    number, [used] = 0, Keyring(key).keys
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for table in {secret.table for secret in SECRETS}:
            for row in connection.execute(f"SELECT rowid AS at, * FROM {table}").fetchall():
                values = dict(row)
                for name in secrets_of(table):
                    raw = as_bytes(values[name])
                    if name.startswith("encrypted_"):
                        opened = used.open_fernet(raw)
                        values[name] = None if opened is None else opened.decode()
                for name, text in sealed(table, values, used).items():
                    if name in secrets_of(table) and text is not None:
                        sql = f"UPDATE {table} SET {name} = ? WHERE rowid = ?"
                        number += connection.execute(sql, (text, row["at"])).rowcount
        connection.commit()
    retire_released(path, key)
    return number


def sealed_in(seen: Snapshot) -> int:
    """Count the texts of the second format."""
    return sum(
        is_v2(as_bytes(row[secret.column][1]))
        for secret in SECRETS
        for row in seen.rows.get(secret.table, ())
        if secret.column in row
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_every_secret_comes_back(case: Case, tmp_path: Path) -> None:
    """At 010, plain Fernet opens each secret, and each row has the values that it had before."""
    path = tmp_path / "tokens.db"
    case.write(path)
    before = snapshot(path)
    secrets = {**invariants.secrets_in(before, case.key, case.adopted), **case.secrets}
    if not secrets:
        return
    prepare(path)
    middle = snapshot(path)
    number = await encrypt_for_rows(path, case.key)
    assert number >= len(secrets)
    assert invariants.secrets_in(snapshot(path), case.key) == {}
    assert refused(lambda: downgrade(path, "010")).code == "key-missing"

    done = downgrade(path, "010", keyring=Keyring(case.key))

    after = snapshot(path)
    assert after.versions == ["010"]
    assert sealed_in(after) == 0
    assert sum(done.encrypted.values()) == number
    assert invariants.secrets_in(after, case.key) == secrets
    assert done.deleted == {}
    for table, rows in after.rows.items():
        encrypted = {name for name in secrets_of(table) if name.startswith("encrypted_")}
        # An operator's triggers write to tables of their own.
        if table in GROWING or table not in TABLES:
            continue
        columns = after.columns[table].keys() - encrypted
        assert counted({c: row[c] for c in columns} for row in rows) == counted(
            {c: row[c] for c in columns} for row in middle.rows[table]
        ), table
