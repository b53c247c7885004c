"""Add the nonce of an OAuth session.

The OpenID Connect nonce binds the identity provider's answer to the flow. Releases v0.79.1
to v0.86.3 kept the column in a downgrade.

Downgrade loses: the nonce of every running OAuth session; any index on it.

Revision ID: 006
Revises: 005
Create Date: 2026-05-02 20:48
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "006"
down_revision = "005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.get_context().opts["guards"].add_column("oauth_sessions", sa.Column("nonce", sa.Text()))


def downgrade() -> None:
    """Drop the column."""
    op.get_context().opts["guards"].drop_column("oauth_sessions", "nonce")
