"""`db audit list` and `db audit verify` on files: what they print and how they exit."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from tests.cli.conftest import Command, Db
from tests.cli.places import execute
from tests.support import invariants
from tests.support.contents import KEY, OTHER_KEY

ENTRY = "INSERT INTO audit_logs (timestamp, event, user_id, hostname) VALUES ({}, '{}', 'bob', 'h')"


@pytest.fixture
def filled(db: Db, monkeypatch: pytest.MonkeyPatch) -> Db:
    """A database with two signed entries, of which the newer one is Alice's."""

    async def fill() -> None:
        async with RefreshTokenStorage(db.path, encryption_key=KEY) as store:
            await store.store_refresh_token("bob", "token")
            await store.store_refresh_token("alice", "token")

    asyncio.run(fill())
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    return db


def listed(db: Db, *arguments: str) -> list[tuple[str, str, str]]:
    """Return event, user and code of each entry."""
    done = db("audit", "list", "--json", *arguments)
    assert done.status == 0
    entries = json.loads(done.out)["entries"]
    return [(one["event"], one["user_id"], one["code"]) for one in entries]


def test_entries_are_listed_newest_first(filled: Db) -> None:
    """Each line has the time in UTC, the event, the user, the host and the code."""
    with invariants.unchanged(filled.path):
        done = filled("audit", "list")
    head, first, second = (line.split() for line in done.out.splitlines())
    assert head == ["when", "event", "user", "resource", "host", "code"]
    assert (first[2:5], first[-1]) == (["store_refresh_token", "alice", "-"], "right")
    assert first[0] == time.strftime("%Y-%m-%d", time.gmtime())
    assert second[3] == "bob"


def test_the_database_of_the_settings_is_named_once(
    filled: Db, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are found without naming it again."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(filled.path))
    done = command("db", "audit", "list")
    assert (done.out + done.err).count("database: ") == 1


def test_the_code_of_each_entry_is_named(filled: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is right, unsigned, wrong, or of a key that was not given."""
    execute(filled.path, ENTRY.format(1, "delete_expired_login_flow"))
    execute(filled.path, "UPDATE audit_logs SET hostname = 'x' WHERE id = 1")
    assert [code for *_, code in listed(filled)] == ["right", "wrong", "unsigned"]
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", OTHER_KEY)
    assert [code for *_, code in listed(filled)] == ["unknown", "unknown", "unsigned"]
    name = f"key {Keyring(KEY).fingerprints[0]} not given"
    assert name in filled("audit", "list").out
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", "malformed")
    done = filled("audit", "list")
    assert (done.status, done.err[:30]) == (0, "warning: no code is checked: E")


def test_entries_are_chosen(filled: Db) -> None:
    """By user, by number, and by time: a date, a time with its zone, or an age."""
    execute(filled.path, ENTRY.format(1_700_000_000, "old"))  # 2023-11-14T22:13:20Z
    assert [user for _, user, _ in listed(filled, "--user", "bob")] == ["bob", "bob"]
    assert [user for _, user, _ in listed(filled, "-n", "1")] == ["alice"]
    for since, number in {
        "2023-11-14": 3,
        "2023-11-15": 2,
        "2023-11-14T22:13:20Z": 3,
        "2023-11-14T22:13:21Z": 2,
        "2023-11-14T23:13:20+01:00": 3,
        "7d": 2,
        "99999w": 3,
    }.items():
        assert len(listed(filled, "--since", since)) == number, since


@pytest.mark.parametrize("since", ["2023-11-14T22:13:20", "yesterday", "", "7", "2023-13-01"])
def test_a_time_without_a_zone_is_wrong_usage(since: str, filled: Db) -> None:
    """Which second it means is unknown; the message has examples."""
    done = filled("audit", "list", "--since", since)
    assert (done.status, "12h" in done.err) == (2, True)


def test_control_characters_are_escaped(filled: Db) -> None:
    """A user who can write to the database cannot write to the terminal."""
    execute(filled.path, ENTRY.format(1, "x\x1b[2J\nforged"))
    execute(filled.path, "UPDATE audit_logs SET user_id = CAST(x'1b5bff' AS TEXT) WHERE id = 1")
    execute(filled.path, "UPDATE audit_logs SET resource_type = x'1bff' WHERE id = 1")
    for name in ("list", "verify"):
        out = filled("audit", name).out
        assert "\x1b" not in out
        assert out.isprintable() or out.replace("\n", "").isprintable()
    assert "x\\x1b[2J\\nforged" in filled("audit", "list").out


def test_verify_exits_with_1_if_something_is_wrong(filled: Db) -> None:
    """It lists the entry and the secret; before, it says that nothing is wrong."""
    with invariants.unchanged(filled.path):
        done = filled("audit", "verify")
    assert (done.status, done.out.splitlines()) == (
        0,
        [
            "2 entries: 2 right",
            "2 secrets: 2 as their entries say",
            f"{filled.path}: nothing is wrong",
        ],
    )
    execute(filled.path, "UPDATE audit_logs SET event = 'x' WHERE id = 1")
    execute(filled.path, "UPDATE refresh_tokens SET encrypted_token = 'x' WHERE user_id = 'alice'")
    done = filled("audit", "verify")
    assert (done.status, done.err) == (1, "")
    assert "2 entries: 1 right, 1 wrong" in done.out
    assert ": x of 'bob'" in done.out
    assert "refresh_tokens.encrypted_token of 'alice': it was stored as another value" in done.out
    document = json.loads(filled("audit", "verify", "--json").out)
    assert document["right"] is False
    assert document["secrets"]["changed"] == 1
    assert [one["row"] for one in document["changed"]] == ["alice"]
    assert [one["id"] for one in document["wrong"]] == [1]


@pytest.mark.parametrize("name", ["list", "verify"])
@pytest.mark.parametrize(("state", "status"), [("missing", 0), ("behind", 0), ("newer", 0)])
def test_every_state_is_read(state: str, status: int, name: str, db: Db) -> None:
    """Also a database that a start would upgrade, create or refuse; nothing is created."""
    db.put(state)
    assert db("audit", name).status == status
    assert db.path.exists() is (state != "missing")


@pytest.mark.parametrize("name", ["list", "verify"])
def test_another_file_is_refused(name: str, db: Db) -> None:
    """Without a log of this program there is nothing to read."""
    db.path.write_bytes(b"no database at all" * 100)
    assert db.refused("audit", name) == "not-a-database"
