"""Rows for revision 104, add MCP clients, grants and tokens: it changes no row."""

from __future__ import annotations

from typing import Any, Final

_TEXT: Final = "Ünï:çødé.用户 🙂 'a' \"b\" %s %% :x\n"

ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    "mcp_clients": [
        {"client_id": _TEXT, "metadata": _TEXT, "kind": "registered", "created_at": 2**62},
        {
            "client_id": "https://x/client.json",
            "metadata": "{}",
            "kind": "document",
            "created_at": -1,
            "last_used_at": 1_780_000_000,
            "expires_at": 2**62,
        },
    ],
    "mcp_grants": [
        {
            "grant_id": f"{number} {_TEXT}",
            "client_id": _TEXT,
            "user_id": _TEXT,
            "scopes": "files:read notes:read",
            "resource": "https://x/mcp",
            "code_hash": code,
            "created_at": 2**62,
            "revoked_at": code and -1,
            "revoked_why": code,
        }
        for number, code in enumerate((None, "sha256:LXEWQrcmsEQBYnyp"))
    ],
    "mcp_tokens": [
        {
            "token_hash": f"{number} {_TEXT}",
            "grant_id": _TEXT,
            "kind": kind,
            "scopes": kind,
            "issued_at": -1,
            "expires_at": 2**62,
        }
        for number, kind in enumerate(("access", "refresh"))
    ],
}
