"""Operations with well-known mistakes, for the negative controls of the fault tests.

An operation that patches something runs in a forked child.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from nextcloud_mcp_server.backends.sqlite import compact, pool, transaction, wal
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.secrets import secrets_of
from tests.faults import operations
from tests.faults.operations import KEYS, acknowledge

_TOKEN: Final = secrets_of("refresh_tokens")["encrypted_token"]

_INSERT: Final = (
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
    "VALUES (?, x'00', 0, 0)"
)


def naive(path: Path, _argument: str) -> None:
    """An upgrade with a commit for every statement."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    for number in range(8):
        connection.execute(f"CREATE TABLE step_{number} (id INTEGER PRIMARY KEY)")
    connection.execute("UPDATE alembic_version SET version_num='010'")
    connection.close()


def log_and_go_on(path: Path, argument: str) -> None:
    """An upgrade whose errors are swallowed."""
    with suppress(sqlite3.Error):
        naive(path, argument)


def without_begin(path: Path, _argument: str) -> None:
    """The program's start with the implicit transactions of Python's driver."""

    def create_engine(path: Path, pragmas: Mapping[str, str], **options: Any) -> AsyncEngine:
        assert pragmas
        url = URL.create("sqlite+aiosqlite", database=str(path))
        return create_async_engine(url, poolclass=NullPool, **options)

    setattr(transaction, "create_engine", create_engine)  # noqa: B010 - another signature
    operations.start(path, "")


def early_promise(path: Path, argument: str) -> None:
    """A store that acknowledges before it commits."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number in range(int(argument)):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_INSERT, (f"user-{number}",))
            acknowledge(f"stored user-{number}")
            connection.execute("COMMIT")


def copy_as_backup(path: Path, _argument: str) -> None:
    """A backup by copying the file, while the newest token is in the ``-wal``."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(_INSERT, ("newest",))
        copy = path.with_name(f"{path.name}.backup-20261123T160000.000000Z-010-manual")
        shutil.copyfile(path, copy)
        acknowledge(f"backup {copy.name}")


def restore_by_copying(path: Path, argument: str) -> None:
    """A restore by `cp` over the existing file."""
    shutil.copyfile(path.with_name(argument), path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def store_in_delete_mode(path: Path, argument: str) -> None:
    """Serving with SQLite's defaults: a rollback journal, and synchronous=FULL."""
    make = pool.SqlitePool.__init__

    def in_wal(
        self: pool.SqlitePool, path: Path, _journal_mode: str, *rest: Any, **named: Any
    ) -> None:
        make(self, path, "wal", *rest, **named)

    setattr(pool.SqlitePool, "__init__", in_wal)  # noqa: B010 - mypy forbids the other way
    operations.store_on_network(path, argument)


@contextmanager
def _with_normal(path: Path) -> Iterator[None]:
    """Serve in WAL mode with synchronous=NORMAL, while another connection is open.

    Nothing is synced before a checkpoint, and none is made; the file is not compacted.
    """
    weaker = MappingProxyType({**pool.SERVING_PRAGMAS, "synchronous": "NORMAL"})
    setattr(pool, "SERVING_PRAGMAS", weaker)  # noqa: B010 - it is Final
    setattr(wal, "checkpoint", lambda *_, **__: False)  # noqa: B010 - another signature
    setattr(compact, "compact", _not_compacted)  # noqa: B010 - it would sync
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield


def _not_compacted(_: Path) -> None:
    raise TokenStorageError("not compacted", code="disk-full", remedy="")


def store_with_normal(path: Path, argument: str) -> None:
    """A store whose commits are not synced."""
    with _with_normal(path):
        operations.store(path, argument)


def rotate_with_normal(path: Path, argument: str) -> None:
    """A rotation whose commits are not synced when it reports that it is done."""
    with _with_normal(path):
        operations.rotate_keys(path, argument)
        acknowledge("done")


def retire_with_normal(path: Path, argument: str) -> None:
    """A retirement whose commits are not synced when it is acknowledged."""
    with _with_normal(path):
        operations.retire_keys(path, argument)


def start_unsynced(path: Path, argument: str) -> None:
    """The program's start with SQLite's syncs switched off."""
    weaker = MappingProxyType({**transaction.MIGRATION_PRAGMAS, "synchronous": "OFF"})
    setattr(transaction, "MIGRATION_PRAGMAS", weaker)  # noqa: B010 - it is Final
    operations.start(path, argument)


def rotate_in_two_commits(path: Path, _argument: str) -> None:
    """A rotation whose entries in the audit log are not in the transactions of the rows."""
    new, ring = Keyring(KEYS[0]).keys[0], Keyring(KEYS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        read = "SELECT user_id, token_audience, encrypted_token FROM refresh_tokens"
        for user, audience, text in connection.execute(read).fetchall():
            of = binding(_TOKEN, {"user_id": user, "token_audience": audience})
            if opened := ring.opened(text, of):
                connection.execute(
                    "UPDATE refresh_tokens SET encrypted_token = ? WHERE user_id = ?",
                    (new.seal(opened[1], of), user),
                )
                connection.execute(
                    "INSERT INTO audit_logs (timestamp, event, user_id) "
                    "VALUES (1, 'rotate_secret', ?)",
                    (user,),
                )


def leave_open(path: Path, _argument: str) -> None:
    """A write that leaves its connection open if it fails."""
    connection = sqlite3.connect(path, isolation_level=None)
    _forgotten.append(connection)
    connection.execute("UPDATE alembic_version SET version_num='010'")
    _forgotten.remove(connection)
    connection.close()


_forgotten: list[sqlite3.Connection] = []
