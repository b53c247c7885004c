"""Add batch OCR jobs.

The job of each version of a document, so that no version is sent twice. Two drafts of this
revision created other columns; a startup of the program repairs such a file, not this revision.

Downgrade loses: the table batch_ocr_jobs, a cache: documents are sent again.

Revision ID: 008
Revises: 007
Create Date: 2026-06-15 11:04
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "008"
down_revision = "007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "batch_ocr_jobs",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("doc_id", sa.Text(), nullable=False),
        sa.Column("doc_type", sa.Text(), nullable=False),
        sa.Column("etag", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "doc_id", "doc_type", "etag", name="pk_batch_ocr_jobs"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.get_context().opts["guards"].drop_table("batch_ocr_jobs")
