"""Add app passwords.

A user's credential if the identity provider gives no refresh token.

Downgrade loses: the table app_passwords: every stored app password.

Revision ID: 002
Revises: 001
Create Date: 2026-01-13 10:15
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its index."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "app_passwords",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("encrypted_password", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
    )
    guards.create_index("idx_app_passwords_updated", "app_passwords", ["updated_at"])


def downgrade() -> None:
    """Drop the table with its index."""
    op.get_context().opts["guards"].drop_table("app_passwords")
