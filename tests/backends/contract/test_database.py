"""A database as it is inspected, opened and marked as in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import bindparam, select
from sqlalchemy.exc import DatabaseError

from nextcloud_mcp_server.backends.base import SAMPLE_SIZE, Connection, Database, Pool
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate import journal
from nextcloud_mcp_server.migrate.startup import Outcome, prepare
from nextcloud_mcp_server.schema.tables import audit_logs
from tests.backends.contract.engines import Engine
from tests.support.errors import refuses

_INSERT = audit_logs.insert().values(user_id=bindparam("user"), event="stored", timestamp=1)


def _write(user: str) -> Callable[[Connection], int]:
    return lambda connection: connection.run(_INSERT, {"user": user})


def _users(connection: Connection) -> list[str]:
    return [row[0] for row in connection.all(select(audit_logs.c.user_id))]


def _open(database: Database, outcome: Outcome) -> Pool:
    return database.open_pool(outcome.journal_mode, database.hold(), read_only=outcome.read_only)


def test_a_place_without_a_database_is_not_changed(database: Database, engine: Engine) -> None:
    """Constructing and inspecting create nothing; the place has a name for people."""
    assert str(database) in database.option
    assert not database.inspect().exists
    assert database.newest(journal.TABLE, ["action"], 1) is None
    assert list(database.samples([("refresh_tokens", "encrypted_token")], None)) == []
    assert database.check_integrity() == ""
    assert not engine.is_file or database.identity() is None


def test_a_start_leaves_it_at_head(database: Database, place: str) -> None:
    """A second start does nothing, and the journal has one entry."""
    assert [prepare(database).action.value for _ in range(2)] == ["create", "nothing"]
    snapshot = connect(place).inspect()
    assert snapshot.versions == (database.history.head,)
    assert database.newest(journal.TABLE, ["action", "to_revision"], None) == [
        ("create", database.history.head)
    ]


def test_encrypted_values_are_sampled(database: Database, engine: Engine) -> None:
    """An inspection has each sampled value once; samples() has all values of existing columns."""
    prepare(database)
    insert = (
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
        f"VALUES (:user, {engine.secret}, 1, 1)"
    )
    with database.lock(5) as locked:
        for number in range(SAMPLE_SIZE + 1):
            locked.transact(lambda t, n=number: t.execute(insert, {"user": str(n)}))  # type: ignore[misc]
    assert database.inspect(samples=True).samples == (b"\1\2",)
    columns = [("refresh_tokens", "encrypted_token"), ("gone", "gone")]
    assert list(database.samples(columns, None)) == [b"\1\2"] * (SAMPLE_SIZE + 1)
    assert list(database.samples(columns, 2)) == [b"\1\2"] * 2


async def test_compacting_keeps_every_row(database: Database, place: str) -> None:
    """Beside an open pool, which goes on, and the database stays the same one."""
    pool, before = _open(database, prepare(database)), database.identity()
    await pool.write(_write("before"))
    await asyncio.to_thread(connect(place).compact)
    await pool.write(_write("after"))
    assert sorted(await pool.read(_users)) == ["after", "before"]
    assert database.identity() == before
    await pool.close()


async def test_acknowledged_writes_are_read(database: Database, place: str) -> None:
    """Concurrent writes are all read by a pool that is opened afterwards."""
    pool = _open(database, prepare(database))
    users = [f"user-{number}" for number in range(20)]
    await asyncio.gather(*(pool.write(_write(user)) for user in users))
    await pool.close()
    pool = _open(connect(place), prepare(database))
    assert sorted(await pool.read(_users)) == sorted(users)
    await pool.close()


async def test_a_failing_unit_is_undone(database: Database) -> None:
    """Its own error is raised, and the units beside it are committed."""
    pool = _open(database, prepare(database))

    def failing(connection: Connection) -> None:
        connection.run(_INSERT, {"user": "mallory"})
        raise LookupError

    results = await asyncio.gather(
        pool.write(_write("alice")),
        pool.write(failing),
        return_exceptions=True,
    )
    assert isinstance(results[1], LookupError)
    assert await pool.read(_users) == ["alice"]
    await pool.close()


async def test_an_open_store_is_in_use(database: Database, engine: Engine) -> None:
    """Commands that replace a file are refused until the pool is closed.

    Whether a store is open on a server cannot be known.
    """
    pool = _open(database, prepare(database))
    if engine.is_file:
        with refuses("in-use"):
            database.require_idle()
    database.require_idle(while_running=True)
    await pool.close()
    database.require_idle()


async def test_a_database_that_could_only_be_read_is_written_once_it_can_be(
    database: Database,
) -> None:
    """The reason is looked for again at each write; reading works before and after it."""
    outcome = prepare(database)
    pool = database.open_pool(outcome.journal_mode, None, read_only="the disk was a compact disc")
    assert await pool.read(_users) == []
    await pool.write(_write("alice"))
    assert await pool.read(_users) == ["alice"]
    await pool.close()


async def test_a_session_commits_if_its_body_ends_well(database: Database) -> None:
    """``alembic`` in a checkout uses it: under the lock, in one transaction."""

    async def execute(*statements: str) -> None:
        async with database.session() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    await execute("CREATE TABLE registered_webhooks (id INTEGER)")
    with pytest.raises(DatabaseError):
        await execute(
            "CREATE TABLE _alembic_tmp_audit_logs (id INTEGER)", "SELECT nothing FROM nowhere"
        )
    tables = database.inspect().structure.tables
    assert ("registered_webhooks" in tables, "_alembic_tmp_audit_logs" in tables) == (True, False)


def test_only_errors_of_the_database_are_translated(database: Database) -> None:
    """Another error is not translated."""
    assert database.translate(LookupError("mine")) is None
    assert database.translate(OSError(28, "No space left on device")).code == "disk-full"  # type: ignore[union-attr]
