"""Add keys and audit signatures.

The table keys says which key encrypts and in which format. A secret is encrypted again only when
it is stored or by "keys rotate", so the upgrade needs no key.

Downgrade loses: every running sign-in and every browser session: only a hash of its id is stored.
Tokens, passwords and profiles are encrypted as released versions do, which needs their key.

Revision ID: 103
Revises: 102
Create Date: 2026-11-29 21:52
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from nextcloud_mcp_server.migrations import guards

revision = "103"
down_revision = "102"
branch_labels = None
depends_on = None

# A hashed id cannot be restored.
DELETES_ROWS_FROM = ("oauth_sessions", "browser_sessions")


def upgrade() -> None:
    """Create the table, and add the columns."""
    guards.create_table(
        "keys",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("check", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    # Which ciphertexts the change has stored, and a code that only a key can make.
    guards.add_column("audit_logs", sa.Column("digest", sa.Text()))
    guards.add_column("audit_logs", sa.Column("mac", sa.Text()))
    # A password is bound to the Nextcloud that it is for.
    guards.add_column("app_passwords", sa.Column("server", sa.Text()))
    # The client gets its state back, and a hash cannot be.
    guards.add_column("oauth_sessions", sa.Column("encrypted_state", sa.LargeBinary()))


def downgrade() -> None:
    """Decrypt what only this revision can read, and drop them."""
    op.get_context().opts["guards"].decrypt()
    guards.drop_column("oauth_sessions", "encrypted_state")
    guards.drop_column("app_passwords", "server")
    guards.drop_column("audit_logs", "mac")
    guards.drop_column("audit_logs", "digest")
    guards.drop_table("keys")
