"""Rows for revision 103, add keys and audit signatures: it changes no row."""

from __future__ import annotations

from typing import Any, Final

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
    ]
}
