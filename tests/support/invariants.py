"""Invariants of a start on any file: checks that raise AssertionError.

They use the facts about released schemas and the content of the file before the start, and
nothing of the implementation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.support import revisions
from tests.support.facts import DRAFT_JOBS, INDEXES, REPLACED_INDEXES, REWRITTEN, SECRETS, TABLES
from tests.support.snapshot import COMPANIONS, Row, Snapshot, counted

HEAD: Final = revisions.HEAD

#: Revision 010 drops this table with its rows.
DROPPED: Final = "registered_webhooks"

#: The table that gets a row with every change of the schema.
JOURNAL: Final = "migration_journal"

#: A secret by its table, the id of its row and its column.
Secrets = Mapping[tuple[str, str, str], str]


def rows_survive(
    before: Snapshot, after: Snapshot, base: str | None, adopted: Mapping[str, str]
) -> None:
    """Check that each row has its values and types, and that added columns have their defaults."""
    for name, rows in before.rows.items():
        table = adopted.get(name, name)
        if table in ("alembic_version", DROPPED) or table.startswith("_alembic_tmp_"):
            continue
        wanted = [_rewritten(table, row) if (base or "000") < "004" else row for row in rows]
        if table == DRAFT_JOBS.name:
            _jobs_survive(before, after)
            continue
        there = after.rows[table]
        kept = [{c: row[c] for c in before.columns[name]} for row in there]
        if table == JOURNAL:
            # The start itself adds a row.
            assert counted(wanted) <= counted(kept), "the journal lost a row"
            continue
        assert counted(kept) == counted(wanted), f"rows of {table} changed"
        new = after.columns[table].keys() - before.columns[name].keys()
        new &= {column.name for column in TABLES[table].columns} if table in TABLES else set()
        assert counted({c: row[c] for c in new} for row in there) == counted(
            {c: _default(table, c) for c in new} for _ in rows
        ), f"columns added to {table} do not hold their defaults"


def _rewritten(table: str, row: Row) -> Row:
    column = REWRITTEN.get(table)
    if column is None or column not in row or row[column][1] is None:
        return row
    kind, value = row[column]
    return {**row, column: (kind, value.replace(":", "."))}


def _default(table: str, column: str) -> tuple[str, object]:
    default = TABLES[table].column(column).default
    if not default:
        return ("null", None)
    return ("integer", 0) if default == "FALSE" else ("text", default.strip("'"))


def _jobs_survive(before: Snapshot, after: Snapshot) -> None:
    """Check that the cache of jobs keeps its rows, unless they come from a draft of 008."""
    final = {column.name for column in TABLES[DRAFT_JOBS.name].columns}
    there = counted(after.rows[DRAFT_JOBS.name])
    was = counted(
        {c: v for c, v in row.items() if c in final} for row in before.rows[DRAFT_JOBS.name]
    )
    drafted = before.columns[DRAFT_JOBS.name].keys() > final
    assert there <= was if drafted else there == was, "rows of batch_ocr_jobs changed"


def complete_at_head(after: Snapshot) -> None:
    """Check that the version row is head and each table, column, key and index exists."""
    assert after.versions == [HEAD]
    for name, table in TABLES.items():
        if name == DROPPED:
            continue
        columns = after.columns[name]
        for column in table.columns:
            default = columns[column.name]
            assert default in (column.default or None, column.portable_default or None), column
        assert set(columns) >= {column.name for column in table.columns}
        assert after.keys[name] == table.key, f"the key of {name}"
        assert after.unique[name] >= {frozenset({u}) for u in table.unique}, f"unique in {name}"
    jobs = after.columns[DRAFT_JOBS.name]
    assert set(jobs) == {column.name for column in TABLES[DRAFT_JOBS.name].columns}
    for index, facts in INDEXES.items():
        if facts.table != DROPPED and index not in REPLACED_INDEXES:
            assert after.indexes[index] == tuple(facts.columns.split(", ")), index


def operator_objects_stay(before: Snapshot, after: Snapshot) -> None:
    """Check that an operator's tables, columns, indexes, views and triggers still exist."""
    dropped = {name for name, facts in INDEXES.items() if facts.table == DROPPED}
    gone = {n for n in before.rows if n.startswith("_alembic_tmp_")} | {DROPPED}
    assert before.rows.keys() - after.rows.keys() <= gone
    assert before.indexes.keys() - after.indexes.keys() <= dropped | REPLACED_INDEXES
    assert before.others <= after.others
    assert before.marks == after.marks
    for name, columns in before.columns.items():
        if name in after.columns and name != DRAFT_JOBS.name:
            assert columns.keys() <= after.columns[name].keys()


def secrets_in(before: Snapshot, key: str, adopted: Mapping[str, str] | None = None) -> Secrets:
    """Return every secret in a file that ``key`` decrypts."""
    found = {}
    for name, rows in before.rows.items():
        table = (adopted or {}).get(name, name)
        for column in SECRETS.get(table, ()):
            for row in rows:
                _, value = row.get(column, ("null", None))
                if value is not None and (secret := decrypted(key, value)) is not None:
                    identity = row[TABLES[table].key[0]][1]
                    found[table, str(identity), column] = secret
    return found


def decrypted(key: str, value: str | bytes) -> str | None:
    """Return the plain text of a Fernet token; None if ``key`` does not decrypt it."""
    try:
        return Fernet(key).decrypt(value).decode()
    except InvalidToken:
        return None


async def read_through_the_store(storage: RefreshTokenStorage, wanted: Secrets) -> Secrets:
    """Read each of ``wanted`` through an open store."""
    found = {}
    for table, identity, column in wanted:
        secret = await _ask(storage, table, identity, column)
        if secret is not None:
            found[table, identity, column] = secret
    return found


async def _ask(storage: RefreshTokenStorage, table: str, identity: str, column: str) -> str | None:
    if table == "refresh_tokens":
        token = await storage.get_refresh_token(identity)
        return token.token if token else None
    if table == "app_passwords":
        password = await storage.app_passwords.get(identity)
        return password.password if password else None
    if table == "login_flow_sessions":
        flow = await storage.login_flows.get(identity)
        return flow.poll_token if flow else None
    client = await storage.oauth_clients.get()
    if client is None:
        return None
    hidden = {"encrypted_client_secret": client.client_secret}
    return hidden.get(column, client.registration_access_token)


Disk = Mapping[str, tuple[bytes, int, int]]


def disk(path: Path) -> Disk:
    """Return the bytes, mode and time of a closed database and of the files beside it."""
    return {
        file.name.removeprefix(path.name): (
            file.read_bytes(),
            file.stat().st_mode,
            file.stat().st_mtime_ns,
        )
        for file in path.parent.iterdir()
        if file.name.startswith(path.name)
    }


def untouched(before: Disk, after: Disk) -> None:
    """Check that nothing changed but the lock file and what reading a WAL database creates."""
    for suffix in before.keys() | after.keys():
        if suffix in ("-shm", ".lock"):
            continue
        if suffix == "-wal" and suffix not in before:
            assert after[suffix][0] == b"", "a read left a filled -wal"
            continue
        assert suffix in before, f"{suffix} was created"
        assert suffix in after, f"{suffix} was removed"
        assert after[suffix] == before[suffix], f"the file{suffix} was changed"


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Check that the block changes nothing, as :func:`untouched` defines it."""
    before = disk(path)
    yield
    untouched(before, disk(path))


def same_content(one: Snapshot, other: Snapshot) -> None:
    """Check that two files have the same tables with the same rows."""
    assert one.columns == other.columns
    assert {n: counted(r) for n, r in one.rows.items()} == {
        n: counted(r) for n, r in other.rows.items()
    }
    assert one.indexes == other.indexes


def holds_rows(before: Snapshot) -> bool:
    """Return whether a table has rows."""
    return any(rows for name, rows in before.rows.items() if name != "alembic_version")


def companions(path: Path) -> set[str]:
    """Return the suffixes of SQLite's files that exist beside ``path``."""
    return {s for s in COMPANIONS if path.with_name(path.name + s).exists()}
