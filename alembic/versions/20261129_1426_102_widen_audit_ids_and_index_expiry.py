"""Widen audit ids and index expiry.

On PostgreSQL the ids of the audit log end at 2147483647, and then nothing can be stored: ten
million users who refresh hourly reach that in nine days. The indexes are for lookups that read
the whole table, and the unique constraint on mcp_authorization_code has its own index.

Downgrade loses: nothing. On PostgreSQL the ids stay 64 bits wide if one needs it.

Revision ID: 102
Revises: 101
Create Date: 2026-11-29 14:26
"""

from __future__ import annotations

from alembic import op

from nextcloud_mcp_server.migrations import guards

revision = "102"
down_revision = "101"
branch_labels = None
depends_on = None

INDEXES = (
    ("idx_refresh_tokens_expires", "refresh_tokens", "expires_at"),
    ("idx_audit_timestamp", "audit_logs", "timestamp"),
    ("idx_oauth_sessions_state", "oauth_sessions", "state"),
    ("idx_oauth_sessions_expires", "oauth_sessions", "expires_at"),
)

# The other numbered tables, oauth_clients and migration_journal, get few rows. The name of the
# sequence is looked up, because PostgreSQL chose it. A column that is bigint is not rewritten.
WIDEN = """
DO $$
DECLARE
    audit_table text = format('%I.audit_logs', current_schema());
    sequence text = pg_get_serial_sequence(audit_table, 'id');
BEGIN
    EXECUTE format('ALTER TABLE %s ALTER COLUMN id TYPE bigint', audit_table);
    IF sequence IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s AS bigint', sequence);
    END IF;
END $$
"""

# The sequence counts too: its newest row may be deleted.
NARROW = """
DO $$
DECLARE
    audit_table text = format('%I.audit_logs', current_schema());
    sequence text = pg_get_serial_sequence(audit_table, 'id');
    newest bigint;
    used bigint = 0;
BEGIN
    EXECUTE format('SELECT coalesce(max(id), 0) FROM %s', audit_table) INTO newest;
    IF sequence IS NOT NULL THEN
        EXECUTE format('SELECT last_value FROM %s', sequence) INTO used;
    END IF;
    IF newest > 2147483647 OR used > 2147483647 THEN
        RAISE NOTICE 'The ids of % stay bigint: they do not fit into an integer.', audit_table;
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE %s ALTER COLUMN id TYPE integer', audit_table);
    IF sequence IS NOT NULL THEN
        EXECUTE format('ALTER SEQUENCE %s AS integer', sequence);
    END IF;
END $$
"""


def upgrade() -> None:
    """Add the indexes; on PostgreSQL, widen the ids and leave room for updates."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(WIDEN)
        # A refresh replaces the row. With room on the page the new version stays there, and if
        # the token has no expiry that changes, no index is written. Other tables are rarely
        # updated. It applies to new pages, so nothing is rewritten.
        op.execute("ALTER TABLE refresh_tokens SET (fillfactor = 80)")
    for name, table, column in INDEXES:
        guards.create_index(name, table, [column])
    guards.drop_index("idx_oauth_sessions_mcp_code", "oauth_sessions")


def downgrade() -> None:
    """Drop the indexes, and restore the rest."""
    guards.create_index("idx_oauth_sessions_mcp_code", "oauth_sessions", ["mcp_authorization_code"])
    for name, table, _ in INDEXES:
        guards.drop_index(name, table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE refresh_tokens RESET (fillfactor)")
        op.execute(NARROW)
