"""${message}.

What is it for? Say what a reader of the schema cannot see.

Upgrade changes: FILL IN which rows, and how; leave the line out where it changes none.
Downgrade loses: FILL IN what cannot be brought back, in one line, or: nothing.

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
    """FILL IN: what is added, in the imperative."""
    ${upgrades if upgrades else "pass"}
    # Raw SQL:
    #
    # op.execute("""
    # CREATE TABLE user_preferences (
    # user_id TEXT PRIMARY KEY,
    # theme TEXT DEFAULT 'light',
    # language TEXT DEFAULT 'en',
    # created_at INTEGER NOT NULL
    # )
    # """)
    # op.execute("""
    # CREATE INDEX idx_user_preferences_user_id
    # ON user_preferences(user_id)
    # """)
    #
    # The same for SQLite and PostgreSQL, and changing nothing where it is there already,
    # as every released revision must (with `import sqlalchemy as sa` above):
    #
    # guards = op.get_context().opts["guards"]
    # guards.create_table(
    #     "user_preferences",
    #     sa.Column("user_id", sa.Text(), primary_key=True),
    #     sa.Column("theme", sa.Text(), server_default="light"),
    #     sa.Column("language", sa.Text(), server_default="en"),
    #     sa.Column("created_at", sa.BigInteger(), nullable=False),
    # )
    # guards.create_index("idx_user_preferences_user_id", "user_preferences", ["user_id"])
    # guards.add_column("refresh_tokens", sa.Column("new_field", sa.Text()))
    #
    # Values that no SQL computes, in constant memory; WHERE finds none of the changed rows:
    #
    # guards.rewrite(
    #     "refresh_tokens",
    #     lambda row: {"new_field": row["user_id"].casefold()},
    #     columns=["user_id", "new_field"],
    #     where="new_field IS NULL",
    # )
    #
    # What SQLite cannot alter (a type, a constraint) needs the table made again. Say all that
    # it is to have; its rows and indexes stay, and so does what somebody else added to it:
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
    # The same in raw SQL:
    #
    # # Create new table with desired schema
    # op.execute("""
    # CREATE TABLE refresh_tokens_new (
    # user_id TEXT PRIMARY KEY,
    # encrypted_token BLOB NOT NULL,
    # new_field TEXT, -- New column
    # expires_at INTEGER,
    # created_at INTEGER NOT NULL
    # )
    # """)
    # # Copy data from old table
    # op.execute("""
    # INSERT INTO refresh_tokens_new
    # (user_id, encrypted_token, expires_at, created_at)
    # SELECT user_id, encrypted_token, expires_at, created_at
    # FROM refresh_tokens
    # """)
    # # Drop old table and rename new table
    # op.execute("DROP TABLE refresh_tokens")
    # op.execute("ALTER TABLE refresh_tokens_new RENAME TO refresh_tokens")
    # # Recreate indexes
    # op.execute("CREATE INDEX idx_user_id ON refresh_tokens(user_id)")
    #
    # Name every column that must survive: this example, as it stands, drops the others.


def downgrade() -> None:
    """FILL IN: what is taken away again, in the imperative."""
    ${downgrades if downgrades else "pass"}
    # op.execute("DROP INDEX IF EXISTS idx_user_preferences_user_id")
    # op.execute("DROP TABLE IF EXISTS user_preferences")
    #
    # guards = op.get_context().opts["guards"]
    # guards.recreate_table(
    #     "browser_sessions",
    #     sa.Column("session_id", sa.Text(), primary_key=True),
    #     sa.Column("user_id", sa.Text(), nullable=False),
    #     sa.Column("created_at", sa.BigInteger(), nullable=False),
    #     sa.Column("expires_at", sa.BigInteger(), nullable=False),
    # )
    # guards.drop_table("user_preferences")
    # guards.drop_column("refresh_tokens", "new_field")
