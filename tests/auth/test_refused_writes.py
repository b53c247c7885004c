"""Secrets that are refused in the transaction that would write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.auth.helpers import tamper
from tests.support.contents import KEY

OTHER = Fernet.generate_key()


@pytest.mark.parametrize("first", ["refresh token", "app password", "client"])
async def test_one_key_wins(first: str, path: Path) -> None:
    """The first secret decides the key: the server with another key is refused, and writes none."""
    async with (
        RefreshTokenStorage(path, encryption_key=KEY) as one,
        RefreshTokenStorage(path, encryption_key=OTHER) as two,
    ):
        if first == "refresh token":
            await one.store_refresh_token("alice", "token")
        elif first == "app password":
            await one.app_passwords.store("alice", "password")
        else:
            await one.oauth_clients.store(
                "client", "secret", client_secret_expires_at=0, redirect_uris=[]
            )
        with pytest.raises(TokenStorageError) as caught:
            await two.store_refresh_token("bob", "token")
        assert caught.value.code == "wrong-key"
        assert await two.get_refresh_token("bob") is None
        # The other keeps working, and so does a further write of its own.
        await one.store_refresh_token("carol", "token")
        assert await one.list_user_ids() == (
            ["alice", "carol"] if first == "refresh token" else ["carol"]
        )


async def test_a_rotated_key_still_writes(path: Path) -> None:
    """A server whose older key opens what is stored may write with its newer key."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as old:
        await old.store_refresh_token("alice", "token")
    async with RefreshTokenStorage(path, encryption_key=[OTHER, KEY]) as rotated:
        await rotated.store_refresh_token("bob", "token")
        assert await rotated.list_user_ids() == ["alice", "bob"]


@pytest.mark.parametrize("table", ["refresh_tokens", "audit_logs"])
async def test_an_ignored_insert_is_an_error(table: str, path: Path) -> None:
    """A store that a trigger ignores is an error, and neither the row nor its entry is kept."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        tamper(
            path,
            f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(IGNORE); END",
        )
        with pytest.raises(TokenStorageError, match=f"trigger on {table}|stored in {table}"):
            await storage.store_refresh_token("alice", "token")
        assert await storage.list_user_ids() == []
        assert await storage.audit.list() == []
