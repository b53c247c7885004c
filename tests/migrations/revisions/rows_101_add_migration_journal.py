"""Rows for revision 101, add migration journal: the tests insert them, and run the revision."""

from __future__ import annotations

from typing import Any, Final

ROWS: Final[dict[str, list[dict[str, Any]]]] = {
    "migration_journal": [
        {
            "id": 1,
            "happened_at": 1_780_000_000,
            "action": "create",
            "from_revision": None,
            "to_revision": "101",
            "seconds": 0.1,
            "program_version": "1.0.0",
            "host": "Ünï:çødé.用户 🙂 'a' \"b\" %s %% :x",
            "backup": None,
            "note": None,
        },
        {
            "id": 2,
            "happened_at": -1,
            "action": "downgrade",
            "from_revision": "101",
            "to_revision": None,
            "seconds": 0.0,
            "program_version": "",
            "host": "",
            "backup": "/a/b c/tokens.db.backup-20261123T160900Z-101\n",
            "note": "the copy of oauth_sessions, half made, was adopted",
        },
        {
            "id": 2**31 - 1,
            "happened_at": 2**62,
            "action": "upgrade",
            "from_revision": "010",
            "to_revision": "101",
            "seconds": 1e300,
            "program_version": "2.0.0rc1+local",
            "host": "host",
            "backup": "",
            "note": "",
        },
    ]
}
