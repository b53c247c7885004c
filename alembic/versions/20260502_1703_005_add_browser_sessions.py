"""Add browser sessions.

A user who logged in to the server's own pages is recognised by a session id.

Downgrade loses: the table browser_sessions: every user of the pages logs in again.

Revision ID: 005
Revises: 004
Create Date: 2026-05-02 17:03
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "005"
down_revision = "004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its indexes."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "browser_sessions",
        sa.Column("session_id", sa.Text(), primary_key=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
    )
    guards.create_index("idx_browser_sessions_user", "browser_sessions", ["user_id"])
    guards.create_index("idx_browser_sessions_expires", "browser_sessions", ["expires_at"])


def downgrade() -> None:
    """Drop the table with its indexes."""
    op.get_context().opts["guards"].drop_table("browser_sessions")
