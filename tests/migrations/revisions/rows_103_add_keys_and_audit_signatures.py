"""Rows for revision 103, add keys and audit signatures: its downgrade deletes hashed sessions."""

from __future__ import annotations

from typing import Any, Final

from nextcloud_mcp_server.testing.changes import Changes

_HASH: Final = "sha256:LXEWQrcmsEQBYnyp-6wy9chTD7GQPMTbAiWHF5IaSIE"
_TEXT: Final = "Ünï:çødé.用户 🙂 'a' \"b\" %s %% :x\n"


def _sign_in(session_id: str, code: str | None, state: str | None) -> dict[str, Any]:
    return {
        "session_id": session_id,
        "client_redirect_uri": _TEXT,
        "state": state,
        "mcp_authorization_code": code,
        "idp_access_token": _TEXT,
        "user_id": None,
        "created_at": 2**62,
        "expires_at": -1,
        "nonce": _TEXT,
    }


ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    "keys": [
        {
            "id": "0123456789abcdef",
            "kind": "v2",
            "state": "primary",
            "check": "v2.ASNFZ4mrze8",
            "fingerprint": "1a2b3c4d",
            "created_at": 1_780_000_000,
        },
        {
            "id": "5e6f7a8b",
            "kind": "fernet",
            "state": "former",
            "check": "gAAAAA",
            "fingerprint": "5e6f7a8b",
            "created_at": -1,
        },
    ],
    "oauth_sessions": [
        _sign_in(f"plain {_TEXT}", f"code {_TEXT}", _TEXT),
        _sign_in("plain without a code", None, None),
        _sign_in(_HASH, None, None),
        _sign_in("plain with a hashed code", _HASH, None),
        _sign_in("plain with a hashed state", None, _HASH),
    ],
    "browser_sessions": [
        {"session_id": session_id, "user_id": _TEXT, "created_at": 2**62, "expires_at": -1}
        for session_id in (f"plain {_TEXT}", _HASH)
    ],
}

#: What a released version could not use.
CHANGES: Final = Changes(
    downgrade={
        "oauth_sessions": [
            ({"session_id": session_id}, None)
            for session_id in (_HASH, "plain with a hashed code", "plain with a hashed state")
        ],
        "browser_sessions": [({"session_id": _HASH}, None)],
    }
)
