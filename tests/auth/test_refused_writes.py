"""Secrets that are refused in the transaction that would write them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from tests.auth.helpers import NOW, tamper
from tests.support.child import child
from tests.support.contents import KEY
from tests.support.errors import refuses

OTHER = Fernet.generate_key()
BROWSER, OAUTH = "browser-session-0123456789", "oauth-session-0123456789"


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


_SERVER = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError

async def main(path, key):
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            await storage.store_refresh_token(key, "token")
            print("stored", flush=True)
        except TokenStorageError as error:
            print(error.code, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_one_of_two_processes_wins(engine: str, request: pytest.FixtureRequest) -> None:
    """Two servers store a first secret at once, each with a key of its own: one is refused.

    It is refused at its next start, too, and nothing of it is written.
    """
    for number in range(3):
        if engine == "sqlite":
            made: Path = request.getfixturevalue("token_db")
            path = str(shutil.copyfile(made, made.with_name(f"copy-{number}.db")))
        else:
            path = request.getfixturevalue("postgresql_server").schema_at_head()[1]
        keys = (KEY, OTHER.decode())
        with ExitStack() as stack:
            both = [stack.enter_context(child(_SERVER, path, key)) for key in keys]
            for one in both:
                one.tell()
            answers = [one.answer() for one in both]
        assert sorted(answers) == ["stored", "wrong-key"]
        winner = keys[answers.index("stored")]
        loser = keys[answers.index("wrong-key")]
        with refuses("wrong-key") as caught:
            await RefreshTokenStorage(path, encryption_key=loser).initialize()
        for key in keys:
            assert Keyring([key]).fingerprints[0] in str(caught.value)
        async with RefreshTokenStorage(path, encryption_key=winner) as storage:
            assert await storage.list_user_ids() == [winner]
            assert await storage.get_refresh_token(winner) is not None
            assert [entry.user_id for entry in await storage.audit.list()] == [winner]


async def test_a_rotated_key_still_writes(path: Path) -> None:
    """A server whose older key opens what is stored may write with its newer key."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as old:
        await old.store_refresh_token("alice", "token")
    async with RefreshTokenStorage(path, encryption_key=[OTHER, KEY]) as rotated:
        await rotated.store_refresh_token("bob", "token")
        assert await rotated.list_user_ids() == ["alice", "bob"]


@pytest.mark.parametrize("table", ["refresh_tokens", "audit_logs"])
async def test_an_ignored_insert_is_an_error(
    table: str, path: Path, storage: RefreshTokenStorage
) -> None:
    """A store that a trigger ignores is an error, and neither the row nor its entry is kept."""
    tamper(path, f"CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(IGNORE); END")
    with pytest.raises(TokenStorageError, match=f"row of {table}"):
        await storage.store_refresh_token("alice", "token")
    assert await storage.list_user_ids() == []
    assert await storage.audit.list() == []


#: Triggers that undo a store after it was carried out.
UNDONE = {
    "deleted": "AFTER INSERT ON refresh_tokens BEGIN DELETE FROM refresh_tokens; END",
    "deleted with its entry": "AFTER INSERT ON audit_logs BEGIN DELETE FROM refresh_tokens; END",
    "changed": "AFTER INSERT ON refresh_tokens BEGIN "
    "UPDATE refresh_tokens SET encrypted_token = x'00'; END",
}


@pytest.mark.parametrize("trigger", UNDONE.values(), ids=UNDONE)
async def test_a_store_that_is_undone_is_an_error(
    trigger: str, path: Path, storage: RefreshTokenStorage
) -> None:
    """A trigger that deletes or changes the row afterwards: nothing is acknowledged or kept."""
    tamper(path, f"CREATE TRIGGER t {trigger}")
    with refuses("ignored"):
        await storage.store_refresh_token("alice", "token")
    assert await storage.audit.list() == []
    # After its removal the next store succeeds.
    tamper(path, "DROP TRIGGER t")
    await storage.store_refresh_token("alice", "token")


async def test_a_deletion_that_is_undone_is_an_error(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """A trigger that stores the row again: the grant is there, and that is said."""
    await storage.store_refresh_token("alice", "token")
    tamper(
        path,
        "CREATE TRIGGER t AFTER DELETE ON refresh_tokens BEGIN INSERT INTO refresh_tokens "
        "(user_id, encrypted_token, created_at, updated_at) "
        "VALUES (old.user_id, old.encrypted_token, 1, 1); END",
    )
    with refuses("ignored"):
        await storage.delete_refresh_token("alice")
    assert await storage.get_refresh_token("alice") is not None


async def test_an_own_trigger_that_undoes_nothing_is_no_error(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """An operator may note what is stored."""
    tamper(path, "CREATE TABLE notes (who)")
    tamper(
        path,
        "CREATE TRIGGER t AFTER INSERT ON refresh_tokens BEGIN "
        "INSERT INTO notes VALUES (new.user_id); END",
    )
    await storage.store_refresh_token("alice", "token")
    await storage.oauth_clients.store(
        "client", "secret", client_secret_expires_at=0, redirect_uris=[]
    )
    assert await storage.delete_refresh_token("alice")


async def test_a_refusal_of_a_trigger_is_named(path: Path, storage: RefreshTokenStorage) -> None:
    """It is no fault of the value."""
    tamper(
        path, "CREATE TRIGGER t BEFORE INSERT ON audit_logs BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with refuses("ignored"):
        await storage.store_refresh_token("alice", "token")


async def test_a_broken_trigger_is_forgotten_with_its_removal(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """A store fails while a trigger names a missing table, and succeeds as soon as it is gone."""
    await storage.store_refresh_token("alice", "token")
    tamper(
        path,
        "CREATE TRIGGER t AFTER INSERT ON refresh_tokens BEGIN "
        "INSERT INTO gone_table VALUES (1); END",
    )
    with refuses("inconsistent"):
        await storage.store_refresh_token("alice", "token")
    tamper(path, "DROP TRIGGER t")
    await storage.store_refresh_token("alice", "token")


async def test_a_writer_gets_in_between_deletions(path: Path) -> None:
    """While thousands of expired rows are deleted, another store is not kept waiting."""
    async with (
        RefreshTokenStorage(path, encryption_key=KEY, clock=lambda: NOW) as one,
        RefreshTokenStorage(path, encryption_key=KEY, clock=lambda: NOW) as two,
    ):
        tamper(
            path,
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
            "INSERT INTO browser_sessions SELECT 'old' || i, 'alice', 1, 2 FROM n",
        )
        deletion = asyncio.create_task(one.browser_sessions.delete_expired())
        stored = 0
        while not deletion.done():
            await two.store_refresh_token("alice", "token")
            stored += 1
        assert await deletion == 20_000
        assert stored > 20


#: Changes of rows that are there: the table, the kind of trigger, and the change.
CHANGES: dict[str, tuple[str, str, Callable[[RefreshTokenStorage], Awaitable[object]]]] = {
    "store again": (
        "refresh_tokens",
        "UPDATE",
        lambda s: s.store_refresh_token("alice", "another"),
    ),
    "profile": ("refresh_tokens", "UPDATE", lambda s: s.store_user_profile("alice", {})),
    "step": (
        "oauth_sessions",
        "UPDATE",
        lambda s: s.oauth_sessions.update(OAUTH, user_id="alice"),
    ),
    "token": ("refresh_tokens", "DELETE", lambda s: s.delete_refresh_token("alice")),
    "flow": ("login_flow_sessions", "DELETE", lambda s: s.login_flows.delete("alice")),
    "session": ("browser_sessions", "DELETE", lambda s: s.browser_sessions.delete(BROWSER)),
    "expired tokens": ("refresh_tokens", "DELETE", lambda s: s.delete_expired_refresh_tokens()),
    "expired sessions": (
        "browser_sessions",
        "DELETE",
        lambda s: s.browser_sessions.delete_expired(),
    ),
    "sessions of a user": (
        "browser_sessions",
        "DELETE",
        lambda s: s.browser_sessions.delete_for_user("alice"),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_an_ignored_change_is_an_error(
    name: str, path: Path, storage: RefreshTokenStorage
) -> None:
    """A row that is there and was not changed is not reported as a row that is not there."""
    table, kind, change = CHANGES[name]
    await storage.store_refresh_token("alice", "token", expires_at=NOW)
    await storage.login_flows.store("alice", "token", "endpoint", expires_at=NOW)
    await storage.browser_sessions.create(BROWSER, "alice", expires_at=NOW)
    await storage.oauth_sessions.create(OAUTH, client_redirect_uri="uri", expires_at=NOW)
    before = len(await storage.audit.list())
    tamper(path, f"CREATE TRIGGER t BEFORE {kind} ON {table} BEGIN SELECT RAISE(IGNORE); END")
    with refuses("ignored", table):
        await change(storage)
    assert len(await storage.audit.list()) == before
    # The same change is carried out without the trigger.
    tamper(path, "DROP TRIGGER t")
    await change(storage)
    assert len(await storage.audit.list()) == before + 1


async def test_an_ignored_event_from_outside_is_an_error(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """An audit entry that a trigger ignores is not acknowledged."""
    tamper(path, "CREATE TRIGGER t BEFORE INSERT ON audit_logs BEGIN SELECT RAISE(IGNORE); END")
    with refuses("ignored", "audit_logs"):
        await storage.audit.add("login", "alice")
