"""What each revision's tables are, as found in files that released versions wrote.

The notation is that of the field notes: ``raw/portable`` types, ``!`` NOT NULL, ``*``
primary key, ``=x`` default. Nothing here is read from the migrations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from tests.support import revisions

Lineage = Literal["raw", "portable", "postgresql"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its type, whether NOT NULL, its default as SQL, its place in the key."""

    name: str
    type: str
    required: bool
    default: str | None
    key: int


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns in order, its unique constraints and its named indexes."""

    columns: tuple[Column, ...]
    uniques: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, tuple[str, ...]], ...] = ()


_REFRESH_TOKENS: Final = """
    user_id TEXT*, encrypted_token BLOB!, expires_at INTEGER/BIGINT,
    created_at INTEGER/BIGINT!, updated_at INTEGER/BIGINT!, flow_type TEXT='hybrid',
    token_audience TEXT='nextcloud', provisioned_at INTEGER/BIGINT,
    provisioning_client_id TEXT, scopes TEXT, user_profile TEXT,
    profile_cached_at INTEGER/BIGINT
"""
_AUDIT_LOGS: Final = """
    id INTEGER*, timestamp INTEGER/BIGINT!, event TEXT!, user_id TEXT!, resource_type TEXT,
    resource_id TEXT, auth_method TEXT, hostname TEXT
    | idx_audit_user_timestamp(user_id, timestamp)
"""
_OAUTH_CLIENTS: Final = """
    id INTEGER*, client_id TEXT!, encrypted_client_secret BLOB!,
    client_id_issued_at INTEGER/BIGINT!, client_secret_expires_at INTEGER/BIGINT!,
    redirect_uris TEXT!, encrypted_registration_access_token BLOB,
    registration_client_uri TEXT, created_at INTEGER/BIGINT!, updated_at INTEGER/BIGINT!
    | UNIQUE(client_id)
"""
_OAUTH_SESSIONS: Final = """
    session_id TEXT*, client_id TEXT, client_redirect_uri TEXT!, state TEXT,
    code_challenge TEXT, code_challenge_method TEXT, mcp_authorization_code TEXT,
    idp_access_token TEXT, idp_refresh_token TEXT, user_id TEXT, created_at INTEGER/BIGINT!,
    expires_at INTEGER/BIGINT!, flow_type TEXT='hybrid', requested_scopes TEXT,
    granted_scopes TEXT, is_provisioning BOOLEAN=FALSE/0{nonce}
    | UNIQUE(mcp_authorization_code); idx_oauth_sessions_mcp_code(mcp_authorization_code)
"""
_SCHEMA_VERSION: Final = "version INTEGER*, applied_at REAL/FLOAT!"
_REGISTERED_WEBHOOKS: Final = """
    id INTEGER*, webhook_id INTEGER!, preset_id TEXT!, created_at REAL/BIGINT!
    | UNIQUE(webhook_id); idx_webhooks_created(created_at); idx_webhooks_preset(preset_id)
"""
_APP_PASSWORDS: Final = """
    user_id TEXT*, encrypted_password BLOB!, created_at INTEGER/BIGINT!,
    updated_at INTEGER/BIGINT!{more} | idx_app_passwords_updated(updated_at)
"""
_LOGIN_FLOW_SESSIONS: Final = """
    user_id TEXT*, encrypted_poll_token BLOB!, poll_endpoint TEXT!, requested_scopes TEXT,
    created_at INTEGER/BIGINT!, expires_at INTEGER/BIGINT!
    | idx_login_flow_sessions_expires(expires_at)
"""
_BROWSER_SESSIONS: Final = """
    session_id TEXT*, user_id TEXT!, created_at INTEGER/BIGINT!, expires_at INTEGER/BIGINT!
    | idx_browser_sessions_expires(expires_at); idx_browser_sessions_user(user_id)
"""
_USAGE_EVENTS: Final = """
    event_id TEXT*, occurred_at TIMESTAMP!, metric TEXT!, value BIGINT!, metadata TEXT
    | idx_usage_events_occurred_metric(occurred_at, metric)
"""
_BATCH_OCR_JOBS: Final = """
    user_id TEXT*, doc_id TEXT*, doc_type TEXT*, etag TEXT*, job_id TEXT!, submitted_at BIGINT!
"""
_MIGRATION_JOURNAL: Final = """
    id INTEGER*, happened_at BIGINT!, action TEXT!, from_revision TEXT, to_revision TEXT,
    seconds FLOAT!, program_version TEXT!, host TEXT!, backup TEXT, note TEXT
"""
_DOCUMENT_PATHS: Final = """
    doc_type TEXT*, doc_id TEXT*, user_id TEXT*, file_path TEXT!, updated_at BIGINT!
    | ix_document_paths_user_doc(user_id, doc_type, doc_id)
"""

REVISIONS: Final = revisions.ALL

HEAD: Final = revisions.HEAD

#: The first line of history, and what each revision changes of it.
_CHANGES: Final[dict[str, dict[str, str | None]]] = {
    "001": {
        "refresh_tokens": _REFRESH_TOKENS,
        "audit_logs": _AUDIT_LOGS,
        "oauth_clients": _OAUTH_CLIENTS,
        "oauth_sessions": _OAUTH_SESSIONS.format(nonce=""),
        "schema_version": _SCHEMA_VERSION,
        "registered_webhooks": _REGISTERED_WEBHOOKS,
    },
    "002": {"app_passwords": _APP_PASSWORDS.format(more="")},
    "003": {
        "app_passwords": _APP_PASSWORDS.format(more=", scopes TEXT, username TEXT"),
        "login_flow_sessions": _LOGIN_FLOW_SESSIONS,
    },
    "004": {},
    "005": {"browser_sessions": _BROWSER_SESSIONS},
    "006": {"oauth_sessions": _OAUTH_SESSIONS.format(nonce=", nonce TEXT")},
    "007": {"usage_events": _USAGE_EVENTS},
    "008": {"batch_ocr_jobs": _BATCH_OCR_JOBS},
    "009": {"document_paths": _DOCUMENT_PATHS},
    "010": {"registered_webhooks": None},
    "101": {"migration_journal": _MIGRATION_JOURNAL},
}

_VERSION_TABLE: Final = """
    CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))
"""

_POSTGRESQL_TYPES: Final = {
    "BLOB": "bytea",
    "FLOAT": "double precision",
    "TIMESTAMP": "timestamp without time zone",
}


def tables(revision: str, lineage: Lineage = "portable") -> dict[str, Table]:
    """Every table at ``revision`` (``base``: none), without Alembic's own.

    Nothing is written down about revisions newer than these facts: see :mod:`.newer`.
    """
    if revision in revisions.NEWER:
        from tests.migrations import newer  # noqa: PLC0415 - it is made of these facts

        return (
            newer.ON_POSTGRESQL[revision] if lineage == "postgresql" else newer.on_sqlite(revision)
        )
    known: dict[str, str] = {}
    for step in revisions.KNOWN:
        if revision == "base" or step > revision:
            break
        for name, notation in _CHANGES[step].items():
            known.pop(name, None)
            if notation is not None:
                known[name] = notation
    if lineage == "postgresql":
        # No release made it there, and none reads it.
        known.pop("schema_version", None)
    return {name: parse(notation, lineage) for name, notation in known.items()}


previous = revisions.previous


def parse(notation: str, lineage: Lineage) -> Table:
    """Read one table's notation."""
    columns_text, _, rest = " ".join(notation.split()).partition(" | ")
    columns: list[Column] = []
    for part in columns_text.split(", "):
        match = re.fullmatch(r"(\w+) ([A-Z/]+)([!*]?)(?:=(\S+))?", part)
        assert match, part
        key = 1 + sum(1 for column in columns if column.key) if match[3] == "*" else 0
        columns.append(_column(match.groups(), key, lineage))
    uniques, indexes = [], []
    for part in filter(None, rest.split("; ")):
        owner, _, members = part.rstrip(")").partition("(")
        names = tuple(members.split(", "))
        if owner == "UNIQUE":
            uniques.append(names)
        else:
            indexes.append((owner, names))
    return Table(tuple(columns), tuple(sorted(uniques)), tuple(sorted(indexes)))


def _column(parts: tuple[str, ...], key: int, lineage: Lineage) -> Column:
    name, types, mark, default = parts
    type_ = _either(types, lineage)
    required = mark == "!" or (bool(key) and lineage != "raw")
    found = _either(default, lineage) if default else None
    if lineage == "postgresql":
        if key and type_ == "INTEGER":
            found = "serial"
        elif type_ == "BOOLEAN":
            found = "false"
        type_ = _POSTGRESQL_TYPES.get(type_, type_.lower())
    return Column(name, type_, required, found, key)


def _either(text: str, lineage: Lineage) -> str:
    raw, _, portable = text.partition("/")
    return raw if lineage == "raw" or not portable else portable


def raw_statements(revision: str) -> list[str]:
    """What a release before v0.87.0 would have executed for a file at ``revision``."""
    statements = []
    for name, table in tables(revision, "raw").items():
        parts = [_raw_column(table, column) for column in table.columns]
        keys = [column.name for column in table.columns if column.key]
        if len(keys) > 1:
            parts.append(f"PRIMARY KEY ({', '.join(keys)})")
        parts += [f"UNIQUE({', '.join(unique)})" for unique in table.uniques]
        statements.append(f"CREATE TABLE IF NOT EXISTS {name} (\n  {', '.join(parts)}\n)")
        statements += [
            f"CREATE INDEX {index} ON {name}({', '.join(columns)})"
            for index, columns in table.indexes
        ]
    return [*statements, _VERSION_TABLE, f"INSERT INTO alembic_version VALUES ('{revision}')"]


def _raw_column(table: Table, column: Column) -> str:
    text = f"{column.name} {column.type}"
    if column.key and sum(1 for other in table.columns if other.key) == 1:
        text += " PRIMARY KEY"
        if column.name == "id" and not any(c.name == "client_id" for c in table.columns):
            text += " AUTOINCREMENT"
    if column.required:
        text += " NOT NULL"
    if column.default is not None:
        text += f" DEFAULT {column.default}"
    return text
