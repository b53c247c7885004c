"""Rows for revision 004, which rewrites the separators of scopes, and what it changes."""

from __future__ import annotations

from typing import Any, Final

from nextcloud_mcp_server.testing.changes import Changes, RowChange

#: The columns whose values the revision changes.
SCOPES: Final = (("app_passwords", "scopes"), ("login_flow_sessions", "requested_scopes"))

#: Values before and after the upgrade; the downgrade restores them.
_VALUES: Final = (
    ('["notes:read", "notes:write"]', '["notes.read", "notes.write"]'),
    ('["a:b:c"]', '["a.b.c"]'),
)

#: Colons and dots in other columns stay.
_TEXT: Final = "Ünï:çødé.用户 🙂 'a' \"b\" %s %% :x\n"
_BYTES: Final = bytes(range(256)) + b"gAAAA:."


def _rows(values: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    scopes = [*values, "[]", None]
    return {
        "app_passwords": [
            {
                "user_id": f"{number} {_TEXT}",
                "encrypted_password": _BYTES,
                "created_at": 2**62,
                "updated_at": -1,
                "scopes": value,
                "username": value and _TEXT,
            }
            for number, value in enumerate(scopes)
        ],
        "login_flow_sessions": [
            {
                "user_id": f"{number} {_TEXT}",
                "encrypted_poll_token": _BYTES,
                "poll_endpoint": _TEXT,
                "requested_scopes": value,
                "created_at": 2**62,
                "expires_at": -1,
            }
            for number, value in enumerate(scopes)
        ],
    }


def _changes(*values: tuple[str, str]) -> dict[str, list[RowChange]]:
    return {
        table: [({column: old}, {column: new}) for old, new in values] for table, column in SCOPES
    }


BEFORE: Final = _rows(tuple(old for old, _ in _VALUES))
ROWS: Final = _rows(tuple(new for _, new in _VALUES))
CHANGES: Final = Changes(
    upgrade=_changes(*_VALUES), downgrade=_changes(*((new, old) for old, new in _VALUES))
)
