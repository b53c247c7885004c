"""Add document paths.

The last known path of a document, by user.

Downgrade loses: the table document_paths, a cache: it fills again.

Revision ID: 009
Revises: 008
Create Date: 2026-07-21 01:01
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "009"
down_revision = "008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its index."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "document_paths",
        sa.Column("doc_type", sa.Text(), nullable=False),
        sa.Column("doc_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("file_path", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("doc_type", "doc_id", "user_id", name="pk_document_paths"),
    )
    guards.create_index(
        "ix_document_paths_user_doc", "document_paths", ["user_id", "doc_type", "doc_id"]
    )


def downgrade() -> None:
    """Drop the table with its index."""
    op.get_context().opts["guards"].drop_table("document_paths")
