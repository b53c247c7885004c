"""The tables at head, in SQLAlchemy Core.

The migrations create them, not this module; a test compares the two. The types are those of
a new database. A database of an old release keeps its own types (INTEGER for BIGINT, nullable
text keys), which read and write the same values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect


class Ciphertext(TypeDecorator[bytes]):
    """A LargeBinary that also reads TEXT.

    A restored dump may contain the token as TEXT, for which LargeBinary raises.
    """

    impl = LargeBinary
    cache_ok = True

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], bytes | None] | None:
        """Return bytes for a BLOB, a TEXT or a memoryview."""
        return _as_bytes


def _as_bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, memoryview):
        return bytes(value)
    # bytes() of a number would be as many zeros. No key opens its digits.
    return str(value).encode("utf-8")


metadata: Final = MetaData()

#: Of a column that was added to a table, which may be a STRICT one in SQLite.
_SECONDS: Final = BigInteger().with_variant(Integer(), "sqlite")

refresh_tokens: Final = Table(
    "refresh_tokens",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("encrypted_token", Ciphertext, nullable=False),
    Column("expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("flow_type", Text, server_default="hybrid"),
    Column("token_audience", Text, server_default="nextcloud"),
    Column("provisioned_at", BigInteger),
    Column("provisioning_client_id", Text),
    Column("scopes", Text),
    Column("user_profile", Text),
    Column("profile_cached_at", BigInteger),
    Index("idx_refresh_tokens_expires", "expires_at"),
)

audit_logs: Final = Table(
    "audit_logs",
    metadata,
    # SQLite numbers rows only of an INTEGER key, which has 64 bits there.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("timestamp", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("resource_type", Text),
    Column("resource_id", Text),
    Column("auth_method", Text),
    Column("hostname", Text),
    Column("digest", Text),
    Column("mac", Text),
    Index("idx_audit_user_timestamp", "user_id", "timestamp"),
    Index("idx_audit_timestamp", "timestamp"),
)

oauth_clients: Final = Table(
    "oauth_clients",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("encrypted_client_secret", Ciphertext, nullable=False),
    Column("client_id_issued_at", BigInteger, nullable=False),
    Column("client_secret_expires_at", BigInteger, nullable=False),
    Column("redirect_uris", Text, nullable=False),
    Column("encrypted_registration_access_token", Ciphertext),
    Column("registration_client_uri", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("client_id"),
)

oauth_sessions: Final = Table(
    "oauth_sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("client_id", Text),
    Column("client_redirect_uri", Text, nullable=False),
    Column("state", Text),
    Column("code_challenge", Text),
    Column("code_challenge_method", Text),
    Column("mcp_authorization_code", Text),
    Column("idp_access_token", Text),
    Column("idp_refresh_token", Text),
    Column("user_id", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("flow_type", Text, server_default="hybrid"),
    Column("requested_scopes", Text),
    Column("granted_scopes", Text),
    Column("is_provisioning", Boolean, server_default=false()),
    Column("nonce", Text),
    Column("encrypted_state", Ciphertext),
    Column("resource", Text),
    Column("redirect_uri_given", Boolean().with_variant(Integer(), "sqlite")),
    Column("browser_hash", Text),
    Column("code_expires_at", _SECONDS),
    Column("poll_endpoint", Text),
    Column("encrypted_poll_token", Ciphertext),
    UniqueConstraint("mcp_authorization_code"),
    Index("idx_oauth_sessions_state", "state"),
    Index("idx_oauth_sessions_expires", "expires_at"),
)

#: No release writes to it, and the revisions create it on SQLite only.
schema_version: Final = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("applied_at", Float, nullable=False),
    info={"sqlite_only": True},
)

app_passwords: Final = Table(
    "app_passwords",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("encrypted_password", Ciphertext, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("scopes", Text),
    Column("username", Text),
    Column("server", Text),
    Column("refused_at", _SECONDS),
    Column("last_used_at", _SECONDS),
    Column("app_password_name", Text),
    Index("idx_app_passwords_updated", "updated_at"),
)

login_flow_sessions: Final = Table(
    "login_flow_sessions",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("encrypted_poll_token", Ciphertext, nullable=False),
    Column("poll_endpoint", Text, nullable=False),
    Column("requested_scopes", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("idx_login_flow_sessions_expires", "expires_at"),
)

browser_sessions: Final = Table(
    "browser_sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("idx_browser_sessions_user", "user_id"),
    Index("idx_browser_sessions_expires", "expires_at"),
)

#: The keys that encrypt. The column ``check`` holds an encrypted constant.
keys: Final = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("check", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

#: The MCP clients: registered here, or described by the document that their id is the URL of.
mcp_clients: Final = Table(
    "mcp_clients",
    metadata,
    Column("client_id", Text, primary_key=True),
    Column("metadata", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("expires_at", BigInteger),
    Index("idx_mcp_clients_used", "last_used_at"),
)

#: What a user has granted to an MCP client.
mcp_grants: Final = Table(
    "mcp_grants",
    metadata,
    Column("grant_id", Text, primary_key=True),
    Column("client_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("code_hash", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("last_used_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("revoked_why", Text),
    UniqueConstraint("code_hash"),
    Index("idx_mcp_grants_user", "user_id"),
    Index("idx_mcp_grants_client", "client_id"),
)

#: The tokens that this server has issued, as hashes. Scopes that are NULL are those of the grant.
mcp_tokens: Final = Table(
    "mcp_tokens",
    metadata,
    Column("token_hash", Text, primary_key=True),
    Column("grant_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("scopes", Text),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
    Column("successor_hash", Text),
    Index("idx_mcp_tokens_grant", "grant_id"),
    Index("idx_mcp_tokens_expires", "expires_at"),
)

# These three are migrated and kept, but not used here.
usage_events: Final = Table(
    "usage_events",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("occurred_at", TIMESTAMP, nullable=False),
    Column("metric", Text, nullable=False),
    Column("value", BigInteger, nullable=False),
    Column("metadata", Text),
    Index("idx_usage_events_occurred_metric", "occurred_at", "metric"),
)

batch_ocr_jobs: Final = Table(
    "batch_ocr_jobs",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("doc_id", Text, nullable=False),
    Column("doc_type", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("submitted_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("user_id", "doc_id", "doc_type", "etag", name="pk_batch_ocr_jobs"),
)

document_paths: Final = Table(
    "document_paths",
    metadata,
    Column("doc_type", Text, nullable=False),
    Column("doc_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("file_path", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("doc_type", "doc_id", "user_id", name="pk_document_paths"),
    Index("ix_document_paths_user_doc", "user_id", "doc_type", "doc_id"),
)

# Written by migrations in their transaction; read by `db log`.
migration_journal: Final = Table(
    "migration_journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("happened_at", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("from_revision", Text),
    Column("to_revision", Text),
    Column("seconds", Float, nullable=False),
    Column("program_version", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("backup", Text),
    Column("note", Text),
)
