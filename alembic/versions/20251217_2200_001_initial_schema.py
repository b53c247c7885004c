"""Create the progressive-consent schema.

See docs/ADR-004-progressive-consent.md. Databases from before revisions existed may lack
columns that later releases wrote: they are added.

Downgrade loses: every table and row: all grants, clients, sessions and the audit log.

Revision ID: 001
Revises:
Create Date: 2025-12-17 22:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables and their indexes, or add the missing columns."""
    guards = op.get_context().opts["guards"]
    guards.create_table(
        "refresh_tokens",
        sa.Column("user_id", sa.Text(), primary_key=True),
        sa.Column("encrypted_token", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("flow_type", sa.Text(), server_default="hybrid"),
        sa.Column("token_audience", sa.Text(), server_default="nextcloud"),
        sa.Column("provisioned_at", sa.BigInteger()),
        sa.Column("provisioning_client_id", sa.Text()),
        sa.Column("scopes", sa.Text()),
        sa.Column("user_profile", sa.Text()),
        sa.Column("profile_cached_at", sa.BigInteger()),
    )
    guards.create_table(
        "audit_logs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("resource_type", sa.Text()),
        sa.Column("resource_id", sa.Text()),
        sa.Column("auth_method", sa.Text()),
        sa.Column("hostname", sa.Text()),
    )
    guards.create_index("idx_audit_user_timestamp", "audit_logs", ["user_id", "timestamp"])
    guards.create_table(
        "oauth_clients",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("encrypted_client_secret", sa.LargeBinary(), nullable=False),
        sa.Column("client_id_issued_at", sa.BigInteger(), nullable=False),
        sa.Column("client_secret_expires_at", sa.BigInteger(), nullable=False),
        sa.Column("redirect_uris", sa.Text(), nullable=False),
        sa.Column("encrypted_registration_access_token", sa.LargeBinary()),
        sa.Column("registration_client_uri", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.UniqueConstraint("client_id"),
    )
    create_oauth_sessions(guards)
    if op.get_context().dialect.name == "sqlite":
        # No release ever wrote a row here; on PostgreSQL none ever made the table.
        guards.create_table(
            "schema_version",
            sa.Column("version", sa.Integer(), primary_key=True),
            sa.Column("applied_at", sa.Float(), nullable=False),
        )
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


def create_oauth_sessions(guards) -> None:
    """Create the table of running OAuth flows."""
    guards.create_table(
        "oauth_sessions",
        sa.Column("session_id", sa.Text(), primary_key=True),
        sa.Column("client_id", sa.Text()),
        sa.Column("client_redirect_uri", sa.Text(), nullable=False),
        sa.Column("state", sa.Text()),
        sa.Column("code_challenge", sa.Text()),
        sa.Column("code_challenge_method", sa.Text()),
        sa.Column("mcp_authorization_code", sa.Text()),
        sa.Column("idp_access_token", sa.Text()),
        sa.Column("idp_refresh_token", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("flow_type", sa.Text(), server_default="hybrid"),
        sa.Column("requested_scopes", sa.Text()),
        sa.Column("granted_scopes", sa.Text()),
        sa.Column("is_provisioning", sa.Boolean(), server_default=sa.false()),
        sa.UniqueConstraint("mcp_authorization_code"),
    )
    guards.create_index("idx_oauth_sessions_mcp_code", "oauth_sessions", ["mcp_authorization_code"])


def downgrade() -> None:
    """Drop every table."""
    guards = op.get_context().opts["guards"]
    for table in (
        "registered_webhooks",
        "schema_version",
        "oauth_sessions",
        "oauth_clients",
        "audit_logs",
        "refresh_tokens",
    ):
        guards.drop_table(table)
