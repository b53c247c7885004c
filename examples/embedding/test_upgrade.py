"""The rows of this service while the store is upgraded and downgraded."""

from __future__ import annotations

from nextcloud_mcp_server.testing.walk import StartWalk, Step

#: A row as every release of this service writes it.
GRANT = {
    "user_id": "alice",
    "encrypted_token": b"sealed",
    "scopes": '["calendar.read"]',
    "created_at": 1_780_000_000,
    "updated_at": 1_780_000_000,
}


def test_grants_survive_every_upgrade(migration_walk: StartWalk) -> None:
    """Up to the newest revision, down and up again, no grant changes by a byte."""
    seen: list[Step] = []
    walk = migration_walk(rows={"refresh_tokens": [GRANT]})
    walk.round_trip(each=seen.append)
    assert {step.rows["refresh_tokens"] for step in seen if "refresh_tokens" in step.rows} == {1}
    assert walk.rows("refresh_tokens")[0]["encrypted_token"] == b"sealed"
