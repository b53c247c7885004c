"""${message}.

FILL IN why it is needed.

Upgrade changes: FILL IN which rows, and how; delete this line if none.
Downgrade loses: FILL IN what cannot be restored, in one line, or: nothing.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from __future__ import annotations

from alembic import op

revision = "${up_revision}"
down_revision = ${f'"{down_revision}"' if down_revision else "None"}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """FILL IN: what is added, beginning with a verb."""
    ${upgrades if upgrades else "pass"}
    # Idempotent, on SQLite and PostgreSQL. Above:
    #     import sqlalchemy as sa
    #     from nextcloud_mcp_server.migrations import guards
    #
    # guards.create_table(
    #     "user_preferences",
    #     sa.Column("user_id", sa.Text(), primary_key=True),
    #     sa.Column("theme", sa.Text(), server_default="light"),
    #     sa.Column("created_at", sa.BigInteger(), nullable=False),
    # )
    # guards.create_index("idx_user_preferences_user_id", "user_preferences", ["user_id"])
    # guards.add_column("refresh_tokens", sa.Column("new_field", sa.Text()))
    #
    # Values that SQL cannot compute; `where` must not match a changed row:
    #
    # guards.rewrite(
    #     "refresh_tokens",
    #     lambda row: {"new_field": row["user_id"].casefold()},
    #     columns=["user_id", "new_field"],
    #     where="new_field IS NULL",
    # )
    #
    # What SQLite cannot alter (a type, a constraint); the rows and the indexes are kept:
    #
    # guards.recreate_table(
    #     "browser_sessions",
    #     sa.Column("session_id", sa.Text(), primary_key=True),
    #     sa.Column("user_id", sa.Text(), nullable=False),
    #     sa.Column("created_at", sa.BigInteger(), nullable=False),
    #     sa.Column("expires_at", sa.BigInteger(), nullable=False),
    #     sa.UniqueConstraint("session_id", "user_id"),
    # )
    #
    # Raw SQL:
    #
    # op.execute("""
    # CREATE TABLE IF NOT EXISTS user_preferences (
    # user_id TEXT PRIMARY KEY,
    # created_at INTEGER NOT NULL
    # )
    # """)


def downgrade() -> None:
    """FILL IN: what is removed again, beginning with a verb."""
    ${downgrades if downgrades else "pass"}
    # guards.recreate_table(
    #     "browser_sessions",
    #     sa.Column("session_id", sa.Text(), primary_key=True),
    #     sa.Column("user_id", sa.Text(), nullable=False),
    #     sa.Column("created_at", sa.BigInteger(), nullable=False),
    #     sa.Column("expires_at", sa.BigInteger(), nullable=False),
    # )
    # guards.drop_table("user_preferences")
    # guards.drop_column("refresh_tokens", "new_field")
    #
    # op.execute("DROP TABLE IF EXISTS user_preferences")
