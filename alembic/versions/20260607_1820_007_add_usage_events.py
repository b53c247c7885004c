"""Add usage events.

One row for each event; metadata is JSON text.

Downgrade loses: the table usage_events: every event that was counted.

Revision ID: 007
Revises: 006
Create Date: 2026-06-07 18:20
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "007"
down_revision = "006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its index."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "usage_events",
        sa.Column("event_id", sa.Text(), primary_key=True),
        sa.Column("occurred_at", sa.TIMESTAMP(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("metadata", sa.Text()),
    )
    guards.create_index(
        "idx_usage_events_occurred_metric", "usage_events", ["occurred_at", "metric"]
    )


def downgrade() -> None:
    """Drop the table with its index."""
    op.get_context().opts["guards"].drop_table("usage_events")
