"""Drop registered webhooks.

Releases no longer register webhooks. The backup of the upgrade has the rows. A downgrade
creates an empty table, and the earlier release registers its webhooks again.

Upgrade changes: every registered webhook goes, with its table.
Downgrade loses: nothing.

Revision ID: 010
Revises: 009
Create Date: 2026-08-16 13:53
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "010"
down_revision = "009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the indexes and the table."""
    guards = op.get_context().opts["guards"]
    guards.drop_index("idx_webhooks_created", "registered_webhooks")
    guards.drop_index("idx_webhooks_preset", "registered_webhooks")
    guards.drop_table("registered_webhooks")


def downgrade() -> None:
    """Create the empty table and its indexes."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "registered_webhooks",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("webhook_id", sa.Integer(), nullable=False),
        sa.Column("preset_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("webhook_id"),
    )
    guards.create_index("idx_webhooks_created", "registered_webhooks", ["created_at"])
    guards.create_index("idx_webhooks_preset", "registered_webhooks", ["preset_id"])
