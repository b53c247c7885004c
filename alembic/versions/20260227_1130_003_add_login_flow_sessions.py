"""Add login flows, and what an app password may do.

Login flow v2 of Nextcloud creates an app password after the user confirmed in a browser; the
running flow is polled with a token. Scopes are NULL if they were never recorded.

Downgrade loses: running login flows; scopes and login name of app passwords; any index on these.

Revision ID: 003
Revises: 002
Create Date: 2026-02-27 11:30
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "003"
down_revision = "002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two columns, the table and its index."""
    guards = op.get_context().opts["guards"]
    guards.add_column("app_passwords", sa.Column("scopes", sa.Text()))
    guards.add_column("app_passwords", sa.Column("username", sa.Text()))
    guards.create_table(
        "login_flow_sessions",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("encrypted_poll_token", sa.LargeBinary(), nullable=False),
        sa.Column("poll_endpoint", sa.Text(), nullable=False),
        sa.Column("requested_scopes", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
    )
    guards.create_index("idx_login_flow_sessions_expires", "login_flow_sessions", ["expires_at"])


def downgrade() -> None:
    """Drop the table with its index, and the two columns."""
    guards = op.get_context().opts["guards"]
    guards.drop_table("login_flow_sessions")
    guards.drop_column("app_passwords", "username")
    guards.drop_column("app_passwords", "scopes")
