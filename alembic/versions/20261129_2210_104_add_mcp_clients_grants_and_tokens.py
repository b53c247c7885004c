"""Add MCP clients, grants and tokens.

MCP clients sign in at this server itself. A running authorization gets what it needs until its
code is redeemed, and an app password says whether Nextcloud has refused it.

Downgrade loses: the registered MCP clients, and every grant with its tokens: MCP clients must
register and sign in again, and a running sign-in must begin again. Also when an app password was
refused or used last, and its name. No app password is lost.

Revision ID: 104
Revises: 103
Create Date: 2026-11-29 22:10
"""

from __future__ import annotations

import sqlalchemy as sa

from nextcloud_mcp_server.migrations import guards

revision = "104"
down_revision = "103"
branch_labels = None
depends_on = None

INDEXES = (
    ("idx_mcp_clients_used", "mcp_clients", "last_used_at"),
    ("idx_mcp_grants_user", "mcp_grants", "user_id"),
    ("idx_mcp_grants_client", "mcp_grants", "client_id"),
    ("idx_mcp_tokens_grant", "mcp_tokens", "grant_id"),
    ("idx_mcp_tokens_expires", "mcp_tokens", "expires_at"),
)

# A STRICT table of SQLite, which an operator may have made, has no other names for numbers.
SECONDS = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")

COLUMNS = (
    ("app_passwords", "refused_at", SECONDS),
    ("app_passwords", "last_used_at", SECONDS),
    ("app_passwords", "app_password_name", sa.Text()),
    ("oauth_sessions", "resource", sa.Text()),
    ("oauth_sessions", "redirect_uri_given", FLAG),
    ("oauth_sessions", "browser_hash", sa.Text()),
    ("oauth_sessions", "code_expires_at", SECONDS),
    ("oauth_sessions", "poll_endpoint", sa.Text()),
    ("oauth_sessions", "encrypted_poll_token", sa.LargeBinary()),
)


def upgrade() -> None:
    """Create the tables, and add the columns."""
    guards.create_table(
        "mcp_clients",
        sa.Column("client_id", sa.Text(), primary_key=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger()),
        sa.Column("expires_at", sa.BigInteger()),
    )
    guards.create_table(
        "mcp_grants",
        sa.Column("grant_id", sa.Text(), primary_key=True),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        # A code that is used twice revokes the grant.
        sa.Column("code_hash", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger()),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("revoked_why", sa.Text()),
        sa.UniqueConstraint("code_hash"),
    )
    guards.create_table(
        "mcp_tokens",
        sa.Column("token_hash", sa.Text(), primary_key=True),
        sa.Column("grant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        # NULL: those of the grant.
        sa.Column("scopes", sa.Text()),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger()),
        sa.Column("successor_hash", sa.Text()),
    )
    for name, table, column in INDEXES:
        guards.create_index(name, table, [column])
    for table, column, kind in COLUMNS:
        guards.add_column(table, sa.Column(column, kind))


def downgrade() -> None:
    """Drop them."""
    for table, column, _ in reversed(COLUMNS):
        guards.drop_column(table, column)
    for table in ("mcp_tokens", "mcp_grants", "mcp_clients"):
        guards.drop_table(table)
