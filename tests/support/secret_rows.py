"""A secret of each column, stored as servers store it."""

from __future__ import annotations

from typing import Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

SESSION: Final = "session-of-alice-0123456789"


async def store_each_secret(store: RefreshTokenStorage) -> None:
    """Store a secret of each column of ``SECRETS``, all of alice, and two tokens more."""
    for user in ("alice", "bob"):
        await store.store_refresh_token(user, f"first token of {user}")
    await store.store_refresh_token("alice", "second token of alice")
    await store.store_user_profile("alice", {"name": "Alice"})
    await store.app_passwords.store("alice", "password")
    await store.login_flows.store("alice", "poll", "https://nc", expires_at=4_000_000_000)
    await store.oauth_clients.store(
        "client", "secret", redirect_uris=["http://x"], registration_access_token="access"
    )
    await store.oauth_sessions.create(
        SESSION, "http://x", expires_at=4_000_000_000, nonce="nonce", state="state"
    )
    await store.oauth_sessions.update(
        SESSION,
        user_id="alice",
        idp_access_token="a",
        idp_refresh_token="r",
        poll_endpoint="https://nc/poll",
        poll_token="p",
    )
