"""Revision 102: the ids of the audit log on PostgreSQL, and the index that is dropped."""

from __future__ import annotations

from typing import Final

import pytest

from tests.migrations import facts
from tests.migrations.database import Database

#: The largest id before 102.
LARGEST: Final = 2**31 - 1

ADD: Final = "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'e', 'u')"


async def types(database: Database, schema: str = "current_schema()") -> tuple[str, str]:
    """Return the types of the ids and of their sequence."""
    [(column,)] = await database.query(
        "SELECT data_type FROM information_schema.columns "
        f"WHERE (table_schema, table_name, column_name) = ({schema}, 'audit_logs', 'id')"
    )
    [(sequence,)] = await database.query(
        "SELECT data_type::text FROM pg_sequences "
        f"WHERE schemaname = {schema} AND starts_with(sequencename, 'audit')"
    )
    return column, sequence


async def full(database: Database) -> None:
    """Create a database at 101 that has given out the largest id."""
    await database.upgrade("101")
    await database.execute(f"SELECT setval('audit_logs_id_seq', {LARGEST - 1})", ADD)


async def test_a_full_audit_log_takes_entries_again(postgresql: Database) -> None:
    """At 101 the sequence ends at the largest integer; at 102 the next id is one more."""
    await full(postgresql)
    with pytest.raises(Exception, match="audit_logs_id_seq"):
        await postgresql.execute(ADD)
    await postgresql.upgrade("102")
    await postgresql.execute(ADD)
    assert await postgresql.query("SELECT id FROM audit_logs") == [(LARGEST,), (LARGEST + 1,)]


@pytest.mark.parametrize("kept", [True, False], ids=["an entry", "only the sequence"])
async def test_ids_that_do_not_fit_stay_wide(postgresql: Database, kept: bool) -> None:
    """A downgrade loses no entry and gives out no id again; the next upgrade changes nothing."""
    await full(postgresql)
    await postgresql.upgrade("102")
    await postgresql.execute(ADD, *([] if kept else ["DELETE FROM audit_logs"]))
    rows = await postgresql.query("SELECT id FROM audit_logs")
    await postgresql.downgrade("101")
    assert await postgresql.query("SELECT id FROM audit_logs") == rows
    assert await types(postgresql) == ("bigint", "bigint")
    await postgresql.execute(ADD)
    await postgresql.upgrade("102")
    assert await postgresql.query("SELECT max(id) FROM audit_logs") == [(LARGEST + 2,)]


async def test_ids_that_fit_become_narrow_again(postgresql: Database) -> None:
    """A downgrade restores the types of 101, also with the largest id."""
    await full(postgresql)
    before = await types(postgresql)
    assert before == ("integer", "integer")
    await postgresql.upgrade("102")
    assert await types(postgresql) == ("bigint", "bigint")
    await postgresql.downgrade("101")
    assert await types(postgresql) == before


async def test_a_renamed_sequence_is_widened(postgresql: Database) -> None:
    """The sequence is found by its column, not by its name."""
    await postgresql.upgrade("101")
    await postgresql.execute('ALTER SEQUENCE audit_logs_id_seq RENAME TO "audit Ünï.seq"')
    await postgresql.upgrade("102")
    assert await types(postgresql) == ("bigint", "bigint")
    await postgresql.downgrade("101")
    assert await types(postgresql) == ("integer", "integer")


async def test_ids_without_a_sequence_of_their_own_are_widened(postgresql: Database) -> None:
    """A sequence that does not belong to the column is not ours, and stays as it is."""
    await postgresql.upgrade("101")
    await postgresql.execute("ALTER SEQUENCE audit_logs_id_seq OWNED BY NONE")
    await postgresql.upgrade("102")
    assert await types(postgresql) == ("bigint", "integer")
    await postgresql.downgrade("101")
    assert await types(postgresql) == ("integer", "integer")


async def test_a_table_of_this_name_in_another_schema_stays(postgresql: Database) -> None:
    """Only the current schema is changed, although the other one is visible too."""
    await postgresql.upgrade("101")
    other = "other_application"
    await postgresql.execute(
        f"CREATE SCHEMA {other}",
        f"CREATE TABLE {other}.audit_logs (id SERIAL PRIMARY KEY)",
    )
    try:
        await postgresql.upgrade("102")
        assert await types(postgresql) == ("bigint", "bigint")
        assert await types(postgresql, f"'{other}'") == ("integer", "integer")
    finally:
        await postgresql.execute(f"DROP SCHEMA {other} CASCADE")


async def test_updates_stay_on_their_page(postgresql: Database) -> None:
    """A refreshed token without an expiry is written to its page, and to no index."""
    await postgresql.upgrade("102")
    await postgresql.execute(
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
        "SELECT 'user-' || n, convert_to(repeat('x', 300), 'UTF8'), 1, 1 "
        "FROM generate_series(1, 400) AS n"
    )
    async with postgresql.engine.begin() as connection:
        await connection.exec_driver_sql(
            "UPDATE refresh_tokens SET updated_at = 2 WHERE right(user_id, 1) = '7'"
        )
        counts = await connection.exec_driver_sql(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables "
            "WHERE relid = 'refresh_tokens'::regclass"
        )
        assert counts.one() == (40, 40)


async def test_an_index_that_was_dropped_by_hand_is_no_obstacle(database: Database) -> None:
    """The duplicate index may be missing at 101; a downgrade creates it."""
    await database.upgrade("101")
    await database.execute("DROP INDEX idx_oauth_sessions_mcp_code")
    await database.upgrade("102")
    assert await database.shape() == facts.tables("102", database.lineage)
    await database.downgrade("101")
    assert await database.shape() == facts.tables("101", database.lineage)
