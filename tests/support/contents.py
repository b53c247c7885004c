"""The rows of every built database: one of each kind that real databases contain."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from cryptography.fernet import Fernet

#: The key of every built database, and another key.
KEY: Final = "dGVzdHMtc3VwcG9ydC1maXhlZC1rZXktMDEyMzQ1Njc="
OTHER_KEY: Final = "YS1rZXktdGhhdC1vcGVucy1ub25lLW9mLXRoZW0tMDE="

NOW: Final = 1_795_350_607
LATER: Final = 4_102_444_800

Row = dict[str, Any]


@cache
def encrypted(secret: str) -> bytes:
    """Return the Fernet token of ``secret`` as bytes, as the releases stored it."""
    return Fernet(KEY).encrypt(secret.encode())


#: User id and refresh token. The ids are of kinds that identity providers send.
REFRESH_TOKENS: Final = {
    "alice": "rt-alice-0001",
    "bob@example.org": "rt-bob-0002",
    "Ünï-çødé-用户-🙂": "tök€n-🔑-0003",
    "élodie": "rt-elodie-composed",
    "e\u0301lodie": "rt-elodie-decomposed",
    "Carol": "rt-Carol-upper",
    "carol": "rt-carol-lower",
    "long-token": "x" * 16_384,
    "expired": "rt-expired",
    "epoch": "rt-epoch",
    "o'brien\"; DROP TABLE refresh_tokens;--": "rt-quote",
    "auth0|64f1c0de/../%2e": "rt-path",
}
APP_PASSWORDS: Final = {"alice": "ap-alice", "Ünï-çødé-用户-🙂": "ap-ünï", "dora": "ap-dora"}
POLL_TOKENS: Final = {"alice": "pt-alice", "erik": "pt-erik"}
CLIENT_SECRET: Final = "cs-0001-ü"
REGISTRATION_TOKEN: Final = "rat-0001"

_EXPIRIES: Final = {"alice": None, "expired": 1_600_000_000, "epoch": 0}


def _refresh_token(user: str, token: str) -> Row:
    row: Row = {
        "user_id": user,
        "encrypted_token": encrypted(token),
        "expires_at": _EXPIRIES.get(user, LATER),
        "created_at": NOW - 5,
        "updated_at": NOW,
        "flow_type": "hybrid",
        "token_audience": "nextcloud",
    }
    if user == "alice":
        profile = {"sub": "alice", "name": "Alice Ä", "groups": ["admin", "ünï"]}
        row |= {"user_profile": json.dumps(profile), "profile_cached_at": NOW}
    if user == "bob@example.org":
        row |= {
            "flow_type": "flow2",
            "provisioned_at": NOW,
            "provisioning_client_id": "state-9f8e7d6c",
            # These keep their colons: no revision rewrites them.
            "scopes": json.dumps(["openid", "notes:read", "notes:write"]),
        }
    if user.startswith("Ünï"):
        row |= {"flow_type": "flow1", "token_audience": "mcp-server"}
    return row


def _oauth_session(name: str, **others: Any) -> Row:
    row: Row = {"session_id": name, "client_redirect_uri": f"http://localhost:41234/{name}?ü=1"}
    return row | {"created_at": NOW, "expires_at": LATER, "flow_type": "hybrid"} | others


def _jobs() -> list[Row]:
    common = {"doc_type": "file", "etag": 'W/"1"', "submitted_at": NOW, "updated_at": NOW}
    return [
        {
            "user_id": user,
            "doc_id": doc,
            "job_id": f"job-{user}-{doc}",
            "status": "queued",
            **common,
        }
        for user, doc in (("alice", "1"), ("alice", "2"), ("bob@example.org", "1"))
    ]


def rows(separator: str = ":") -> dict[str, list[Row]]:
    """Return the rows of every table; scopes that revision 004 rewrites use ``separator``."""
    scopes = [f"notes{separator}read", f"calendar{separator}write"]
    at = {"created_at": NOW, "updated_at": NOW}
    until = {"created_at": NOW, "expires_at": LATER}
    return {
        "refresh_tokens": [_refresh_token(*item) for item in REFRESH_TOKENS.items()],
        "audit_logs": [
            {
                "id": number,
                "timestamp": NOW + number,
                "event": event,
                "user_id": user,
                "auth_method": "offline_access",
                "hostname": "pod-1",
            }
            for number, (event, user) in enumerate(
                [("store_refresh_token", user) for user in REFRESH_TOKENS]
                + [("delete_refresh_token", "gone")],
                start=7,
            )
        ],
        "oauth_clients": [
            {
                "id": 1,
                "client_id": "client-0001",
                "encrypted_client_secret": encrypted(CLIENT_SECRET),
                "client_id_issued_at": NOW,
                "client_secret_expires_at": LATER,
                "redirect_uris": json.dumps(["http://localhost:8000/oauth/callback"]),
                "encrypted_registration_access_token": encrypted(REGISTRATION_TOKEN),
                "registration_client_uri": "https://nc.example.org/register/client-0001",
                **at,
            }
        ],
        "oauth_sessions": [
            _oauth_session("sess-plain"),
            _oauth_session(
                "sess-code",
                client_id="desktop",
                state="st-1",
                code_challenge="E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
                code_challenge_method="S256",
                mcp_authorization_code="mcp-code-1",
                idp_access_token="idp-at",
                idp_refresh_token="idp-rt",
                user_id="alice",
                flow_type="flow1",
                requested_scopes="openid notes:read",
                nonce="nonce-1",
            ),
            _oauth_session(
                "sess-flow2",
                mcp_authorization_code="mcp-code-2",
                flow_type="flow2",
                granted_scopes="notes:read",
                is_provisioning=1,
            ),
        ],
        "schema_version": [],
        "registered_webhooks": [
            {"id": 3, "webhook_id": 2163274646, "preset_id": "notes", "created_at": NOW + 0.39},
            {"id": 9, "webhook_id": 17, "preset_id": "calendar", "created_at": NOW},
        ],
        "app_passwords": [
            {
                "user_id": user,
                "encrypted_password": encrypted(password),
                "scopes": {"alice": json.dumps(scopes), "dora": "[]"}.get(user),
                "username": {"alice": "Alice Login"}.get(user),
                **at,
            }
            for user, password in APP_PASSWORDS.items()
        ],
        "login_flow_sessions": [
            {
                "user_id": user,
                "encrypted_poll_token": encrypted(token),
                "poll_endpoint": "https://nc.example.org/index.php/login/v2/poll",
                "requested_scopes": json.dumps(scopes) if user == "alice" else None,
                **until,
            }
            for user, token in POLL_TOKENS.items()
        ],
        "browser_sessions": [
            {"session_id": "browser-1", "user_id": "alice", **until},
            {"session_id": "browser-2", "user_id": "bob@example.org", **until},
        ],
        "usage_events": [
            {
                "event_id": f"event-{number}",
                "occurred_at": "2026-06-07 18:20:00.000000",
                "metric": "tool_call",
                "value": 2**40 + number,
                "metadata": json.dumps({"tool": "notes:search"}),
            }
            for number in range(2)
        ],
        "batch_ocr_jobs": _jobs(),
        "document_paths": [
            {
                "doc_type": "file",
                "doc_id": str(number),
                "user_id": "alice",
                "file_path": f"/Dokumente/Übersicht:{number}.pdf",
                "updated_at": NOW,
            }
            for number in range(2)
        ],
        "migration_journal": [
            {
                "id": 5,
                "happened_at": NOW,
                "action": "upgrade",
                "from_revision": "010",
                "to_revision": "101",
                "seconds": 0.07,
                "program_version": "1.0.0",
                "host": "pod-1",
                "backup": "tokens.db.backup-20261123T160900.000000Z-010",
            }
        ],
    }
