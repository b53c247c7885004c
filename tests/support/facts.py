"""The schemas that released versions created, written down as data.

Notation: ``raw/portable`` types where the two lineages differ (raw: files created before
v0.87.0), ``!`` NOT NULL, ``*`` primary key, ``=x`` default. Nothing here comes from the
migrations, so that a test can compare the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from tests.support import revisions

Lineage = Literal["raw", "portable"]

FIELD: Final = revisions.FIELD
REVISIONS: Final = revisions.ALL
HEAD: Final = revisions.HEAD


@dataclass(frozen=True)
class Column:
    """One column, in both lineages."""

    name: str
    raw: str
    portable: str
    required: bool
    key: bool
    default: str = ""
    portable_default: str = ""

    def declared(self, lineage: Lineage) -> str:
        """The column's part of a CREATE TABLE or ADD COLUMN statement, keys aside."""
        kind = self.raw if lineage == "raw" else self.portable
        required = self.required or (self.key and lineage == "portable")
        default = self.default if lineage == "raw" else self.portable_default
        words = [self.name, kind, "NOT NULL" if required else "", default and f"DEFAULT {default}"]
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Table:
    """One table with every column that it ever had."""

    name: str
    columns: tuple[Column, ...]
    unique: tuple[str, ...] = ()
    #: The raw lineage numbered its rows with AUTOINCREMENT.
    counted: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(column.name for column in self.columns if column.key)

    def column(self, name: str) -> Column:
        """One column by name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Index:
    """One named index."""

    table: str
    columns: str


def _column(text: str) -> Column:
    name, rest = text.split(" ", 1)
    kinds, _, defaults = rest.partition("=")
    raw, _, portable = kinds.rstrip("!*").partition("/")
    default, _, other = defaults.partition("/")
    return Column(name, raw, portable or raw, "!" in kinds, "*" in kinds, default, other or default)


def _table(name: str, columns: str, unique: tuple[str, ...] = (), counted: bool = False) -> Table:
    return Table(name, tuple(_column(c.strip()) for c in columns.split(",")), unique, counted)


TABLES: Final = {
    table.name: table
    for table in (
        _table(
            "refresh_tokens",
            "user_id TEXT*, encrypted_token BLOB!, expires_at INTEGER/BIGINT, "
            "created_at INTEGER/BIGINT!, updated_at INTEGER/BIGINT!, flow_type TEXT='hybrid', "
            "token_audience TEXT='nextcloud', provisioned_at INTEGER/BIGINT, "
            "provisioning_client_id TEXT, scopes TEXT, user_profile TEXT, "
            "profile_cached_at INTEGER/BIGINT",
        ),
        _table(
            "audit_logs",
            "id INTEGER*, timestamp INTEGER/BIGINT!, event TEXT!, user_id TEXT!, "
            "resource_type TEXT, resource_id TEXT, auth_method TEXT, hostname TEXT",
            counted=True,
        ),
        _table(
            "oauth_clients",
            "id INTEGER*, client_id TEXT!, encrypted_client_secret BLOB!, "
            "client_id_issued_at INTEGER/BIGINT!, client_secret_expires_at INTEGER/BIGINT!, "
            "redirect_uris TEXT!, encrypted_registration_access_token BLOB, "
            "registration_client_uri TEXT, created_at INTEGER/BIGINT!, updated_at INTEGER/BIGINT!",
            unique=("client_id",),
        ),
        _table(
            "oauth_sessions",
            "session_id TEXT*, client_id TEXT, client_redirect_uri TEXT!, state TEXT, "
            "code_challenge TEXT, code_challenge_method TEXT, mcp_authorization_code TEXT, "
            "idp_access_token TEXT, idp_refresh_token TEXT, user_id TEXT, "
            "created_at INTEGER/BIGINT!, expires_at INTEGER/BIGINT!, flow_type TEXT='hybrid', "
            "requested_scopes TEXT, granted_scopes TEXT, is_provisioning BOOLEAN=FALSE/0, "
            "nonce TEXT",
            unique=("mcp_authorization_code",),
        ),
        _table("schema_version", "version INTEGER*, applied_at REAL/FLOAT!"),
        _table(
            "registered_webhooks",
            "id INTEGER*, webhook_id INTEGER!, preset_id TEXT!, created_at REAL/BIGINT!",
            unique=("webhook_id",),
            counted=True,
        ),
        _table(
            "app_passwords",
            "user_id TEXT*, encrypted_password BLOB!, created_at INTEGER/BIGINT!, "
            "updated_at INTEGER/BIGINT!, scopes TEXT, username TEXT",
        ),
        _table(
            "login_flow_sessions",
            "user_id TEXT*, encrypted_poll_token BLOB!, poll_endpoint TEXT!, "
            "requested_scopes TEXT, created_at INTEGER/BIGINT!, expires_at INTEGER/BIGINT!",
        ),
        _table(
            "browser_sessions",
            "session_id TEXT*, user_id TEXT!, created_at INTEGER/BIGINT!, "
            "expires_at INTEGER/BIGINT!",
        ),
        _table(
            "usage_events",
            "event_id TEXT*, occurred_at TIMESTAMP!, metric TEXT!, value BIGINT!, metadata TEXT",
        ),
        _table(
            "batch_ocr_jobs",
            "user_id TEXT*, doc_id TEXT*, doc_type TEXT*, etag TEXT*, job_id TEXT!, "
            "submitted_at BIGINT!",
        ),
        _table(
            "document_paths",
            "doc_type TEXT*, doc_id TEXT*, user_id TEXT*, file_path TEXT!, updated_at BIGINT!",
        ),
        _table(
            "migration_journal",
            "id INTEGER*, happened_at BIGINT!, action TEXT!, from_revision TEXT, "
            "to_revision TEXT, seconds FLOAT!, program_version TEXT!, host TEXT!, backup TEXT, "
            "note TEXT",
        ),
    )
}

INDEXES: Final = {
    "idx_audit_user_timestamp": Index("audit_logs", "user_id, timestamp"),
    "idx_oauth_sessions_mcp_code": Index("oauth_sessions", "mcp_authorization_code"),
    "idx_webhooks_created": Index("registered_webhooks", "created_at"),
    "idx_webhooks_preset": Index("registered_webhooks", "preset_id"),
    "idx_app_passwords_updated": Index("app_passwords", "updated_at"),
    "idx_login_flow_sessions_expires": Index("login_flow_sessions", "expires_at"),
    "idx_browser_sessions_expires": Index("browser_sessions", "expires_at"),
    "idx_browser_sessions_user": Index("browser_sessions", "user_id"),
    "idx_usage_events_occurred_metric": Index("usage_events", "occurred_at, metric"),
    "ix_document_paths_user_doc": Index("document_paths", "user_id, doc_type, doc_id"),
}

#: Indexes that a revision newer than the facts drops: 102.
REPLACED_INDEXES: Final = frozenset({"idx_oauth_sessions_mcp_code"})

#: Drafts of revision 008 that never were in a release: columns that no final release fills.
DRAFT_JOBS: Final = _table(
    "batch_ocr_jobs",
    "user_id TEXT*, doc_id TEXT*, doc_type TEXT*, etag TEXT*, job_id TEXT!, status TEXT!, "
    "submitted_at BIGINT!, updated_at BIGINT!",
)

#: The encrypted columns of each table; everything else is plain text.
SECRETS: Final = {
    "refresh_tokens": ("encrypted_token",),
    "oauth_clients": ("encrypted_client_secret", "encrypted_registration_access_token"),
    "app_passwords": ("encrypted_password",),
    "login_flow_sessions": ("encrypted_poll_token",),
}

#: The columns that revision 004 rewrites, colon to dot. Other tables keep their colons.
REWRITTEN: Final = {"app_passwords": "scopes", "login_flow_sessions": "requested_scopes"}

VERSION_TABLE: Final = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
    "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)

Step = tuple[str, ...]

#: The statements of each revision, in the order of the releases.
STEPS: Final[dict[str, tuple[Step, ...]]] = {
    "001": (
        ("table", "refresh_tokens"),
        ("table", "audit_logs"),
        ("index", "idx_audit_user_timestamp"),
        ("table", "oauth_clients"),
        ("table", "oauth_sessions"),
        ("index", "idx_oauth_sessions_mcp_code"),
        ("table", "schema_version"),
        ("table", "registered_webhooks"),
        ("index", "idx_webhooks_preset"),
        ("index", "idx_webhooks_created"),
    ),
    "002": (("table", "app_passwords"), ("index", "idx_app_passwords_updated")),
    "003": (
        ("column", "app_passwords", "scopes"),
        ("column", "app_passwords", "username"),
        ("table", "login_flow_sessions"),
        ("index", "idx_login_flow_sessions_expires"),
    ),
    "004": (("rewrite", "app_passwords"), ("rewrite", "login_flow_sessions")),
    "005": (
        ("table", "browser_sessions"),
        ("index", "idx_browser_sessions_user"),
        ("index", "idx_browser_sessions_expires"),
    ),
    "006": (("column", "oauth_sessions", "nonce"),),
    "007": (("table", "usage_events"), ("index", "idx_usage_events_occurred_metric")),
    "008": (("table", "batch_ocr_jobs"),),
    "009": (("table", "document_paths"), ("index", "ix_document_paths_user_doc")),
    "010": (
        ("drop-index", "idx_webhooks_created"),
        ("drop-index", "idx_webhooks_preset"),
        ("drop-table", "registered_webhooks"),
    ),
    "101": (("table", "migration_journal"),),
    # Newer revisions run their migration.
    **{revision: (("run", revision),) for revision in revisions.NEWER},
}

#: Columns that a later step adds, so that the CREATE TABLE statement lacks them.
ADDED_LATER: Final = frozenset(
    step[1:] for steps in STEPS.values() for step in steps if step[0] == "column"
)
