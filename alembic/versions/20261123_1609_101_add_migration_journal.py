"""Add migration journal.

One row for each change of the schema, written in the transaction of the change. A NULL
revision is base; backup is the one made before the change.

Downgrade loses: the journal of migrations.

Revision ID: 101
Revises: 010
Create Date: 2026-11-23 16:09
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "101"
down_revision = "010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "migration_journal",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("happened_at", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("from_revision", sa.Text()),
        sa.Column("to_revision", sa.Text()),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("program_version", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("backup", sa.Text()),
        sa.Column("note", sa.Text()),
    )


def downgrade() -> None:
    """Drop the table."""
    op.get_context().opts["guards"].drop_table("migration_journal")
