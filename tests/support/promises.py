"""What a start promises of any file, as checks that raise AssertionError.

The checks know the field's facts and what was in the file before; they do not know how a
start is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.support import revisions
from tests.support.facts import DRAFT_JOBS, INDEXES, REWRITTEN, SECRETS, TABLES
from tests.support.snapshot import COMPANIONS, Row, Snapshot, counted

HEAD: Final = revisions.HEAD

#: Revision 010 drops it, and nothing in it outlives that.
DROPPED: Final = "registered_webhooks"

#: What grows with every change of the schema.
JOURNAL: Final = "migration_journal"

#: A secret by its table, the id of its row and its column.
Secrets = Mapping[tuple[str, str, str], str]


def rows_survive(
    before: Snapshot, after: Snapshot, base: str | None, adopted: Mapping[str, str]
) -> None:
    """Every row is there, value for value and type for type; columns added hold defaults."""
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
            # A change of the schema is written down.
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
    """The cache of jobs keeps its rows, unless a draft's shape made it unusable."""
    final = {column.name for column in TABLES[DRAFT_JOBS.name].columns}
    there = counted(after.rows[DRAFT_JOBS.name])
    was = counted(
        {c: v for c, v in row.items() if c in final} for row in before.rows[DRAFT_JOBS.name]
    )
    drafted = before.columns[DRAFT_JOBS.name].keys() > final
    assert there <= was if drafted else there == was, "rows of batch_ocr_jobs changed"


def complete_at_head(after: Snapshot) -> None:
    """Every table, column, key and index of the newest release is there, and recorded."""
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
        if facts.table != DROPPED:
            assert after.indexes[index] == tuple(facts.columns.split(", ")), index


def strangers_stay(before: Snapshot, after: Snapshot) -> None:
    """Tables, columns, indexes, views and triggers of an operator are where they were."""
    dropped = {name for name, facts in INDEXES.items() if facts.table == DROPPED}
    gone = {n for n in before.rows if n.startswith("_alembic_tmp_")} | {DROPPED}
    assert before.rows.keys() - after.rows.keys() <= gone
    assert before.indexes.keys() - after.indexes.keys() <= dropped
    assert before.others <= after.others
    assert before.marks == after.marks
    for name, columns in before.columns.items():
        if name in after.columns and name != DRAFT_JOBS.name:
            assert columns.keys() <= after.columns[name].keys()


def sealed_in(before: Snapshot, key: str, adopted: Mapping[str, str] | None = None) -> Secrets:
    """Every secret that ``key`` opens in a file."""
    found = {}
    for name, rows in before.rows.items():
        table = (adopted or {}).get(name, name)
        for column in SECRETS.get(table, ()):
            for row in rows:
                _, value = row.get(column, ("null", None))
                if value is not None and (secret := opened(key, value)) is not None:
                    identity = row[TABLES[table].key[0]][1]
                    found[table, str(identity), column] = secret
    return found


def opened(key: str, value: str | bytes) -> str | None:
    """The plain text of a Fernet token, or None where ``key`` does not open it."""
    try:
        return Fernet(key).decrypt(value).decode()
    except InvalidToken:
        return None


async def read_through_the_store(storage: RefreshTokenStorage, wanted: Secrets) -> Secrets:
    """Ask an open store for each of ``wanted``."""
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
    """Bytes, mode and time of a closed database and of everything beside it."""
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
    """Nothing changed but what looking at a WAL database leaves, and the lock."""
    for suffix in before.keys() | after.keys():
        if suffix in ("-shm", ".lock"):
            continue
        if suffix == "-wal" and suffix not in before:
            assert after[suffix][0] == b"", "a look left a filled -wal"
            continue
        assert suffix in before, f"a refusal made {suffix}"
        assert suffix in after, f"a refusal removed {suffix}"
        assert after[suffix] == before[suffix], f"a refusal changed the file{suffix}"


def same_content(one: Snapshot, other: Snapshot) -> None:
    """Two files hold the same tables with the same rows."""
    assert one.columns == other.columns
    assert {n: counted(r) for n, r in one.rows.items()} == {
        n: counted(r) for n, r in other.rows.items()
    }
    assert one.indexes == other.indexes


def holds_rows(before: Snapshot) -> bool:
    """Whether there is anything to lose."""
    return any(rows for name, rows in before.rows.items() if name != "alembic_version")


def companions(path: Path) -> set[str]:
    """What SQLite keeps beside ``path`` now."""
    return {s for s in COMPANIONS if path.with_name(path.name + s).exists()}
