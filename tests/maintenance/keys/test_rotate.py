"""A rotation encrypts every secret with the newest key, and loses none."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Update, bindparam, column, literal_column, table, update

from nextcloud_mcp_server.auth.audit import signature
from nextcloud_mcp_server.auth.secrets import digests
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed, is_hashed
from nextcloud_mcp_server.crypto.keyring import Keyring, as_bytes
from nextcloud_mcp_server.maintenance.keys import reader
from nextcloud_mcp_server.maintenance.keys import rotate as rotation
from nextcloud_mcp_server.maintenance.keys import swap as swapping
from nextcloud_mcp_server.maintenance.keys.census import Unopened, count_secrets
from nextcloud_mcp_server.maintenance.keys.reader import COLUMNS, Stored
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.maintenance.keys.values import NO_KEY, NOT_ACCEPTED
from nextcloud_mcp_server.migrations import upgrade_database
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS
from tests.cli.places import environment, execute, rows
from tests.maintenance.keys.helpers import (
    LOST,
    NEW,
    OLDER,
    given,
    grant,
    grant_many,
    opened,
    plaintexts,
    secrets,
    tokens,
)
from tests.support.child import child
from tests.support.contents import CLIENT_SECRET, KEY, OTHER_KEY, REFRESH_TOKENS, encrypted
from tests.support.errors import refuses
from tests.support.revisions import HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A database at head with rows in every table."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    path.chmod(0o600)
    return path


def test_every_table_is_rotated_and_nothing_else_changes(filled: Path) -> None:
    """Values in plain text and ids too; each other value of each row stays as it is."""
    before, old = snapshot(filled), plaintexts(filled, KEY)
    done = rotate(given(filled))
    after = snapshot(filled)
    new = secrets(filled)
    # Released versions have stored no poll token with a session.
    assert {(table, column) for table, column, _ in new} == {
        (secret.table, secret.column) for secret in SECRETS
    } - {("oauth_sessions", "encrypted_poll_token")}
    # Only with the new key, and only in its own row.
    assert all(as_bytes(value).startswith(b"v2.") for value in new.values())
    assert plaintexts(filled, NEW) == old
    for of, name in HASHED:
        ids = rows(filled, f"SELECT {name} FROM {of} WHERE {name} IS NOT NULL")
        assert ids
        assert all(is_hashed(one) for (one,) in ids)
    assert sum(done.rotated.values()) == sum(len(before.rows[name]) for name in COLUMNS)
    assert (sum(done.census.pending.values()), done.census.unopened) == (0, ())
    for name in before.rows.keys() - {"audit_logs", "keys"}:
        held = before.rows[name]
        plain = [
            [{c: v for c, v in row.items() if (name, c) not in CHANGING} for row in these]
            for these in (held, after.rows[name])
        ]
        assert plain[0] == plain[1], name


CHANGING = {(secret.table, secret.column) for secret in SECRETS} | set(HASHED)


async def test_each_row_has_a_signed_entry_with_the_digest_of_what_is_stored(
    filled: Path,
) -> None:
    """In the audit log, where `db audit verify` compares the newest one with the row."""
    rotate(given(filled))
    async with RefreshTokenStorage(filled, encryption_key=[NEW, KEY]) as storage:
        entries = [e for e in await storage.audit.list() if e.event == "rotate_secret"]
    key = Keyring(NEW).keys[0]
    assert all(entry.mac == signature(entry, key) for entry in entries)
    digests_of = {part for e in entries for part in (e.digest or "").split()}
    stored = {
        digests(table, {column: value}) for (table, column, _), value in secrets(filled).items()
    }
    assert digests_of == stored
    kinds = {(e.resource_type, e.auth_method) for e in entries}
    assert ("browser_session", None) in kinds
    assert ("oauth_session", "oauth") in kinds
    sessions = {e.resource_id for e in entries if e.resource_type == "browser_session"}
    assert sessions == {one for (one,) in rows(filled, "SELECT session_id FROM browser_sessions")}


async def test_a_store_reads_everything_that_was_rotated(filled: Path) -> None:
    """Each concern, also what was in plain text: with the new key alone."""
    rotate(given(filled))
    async with RefreshTokenStorage(filled, encryption_key=NEW) as storage:
        for user, token in REFRESH_TOKENS.items():
            found = await storage.get_refresh_token(user)
            assert found is not None
            assert found.token == token
        profile = await storage.get_user_profile("alice")
        session = await storage.oauth_sessions.get_by_state("st-1")
        assert profile is not None
        assert profile["name"] == "Alice Ä"
        assert session is not None
        assert (session.state, session.nonce, session.idp_refresh_token) == (
            "st-1", "nonce-1", "idp-rt",
        )  # fmt: skip
        assert await storage.oauth_sessions.get_by_code("mcp-code-2") is not None
        assert await storage.oauth_sessions.get("sess-plain") is not None
        assert await storage.browser_sessions.get_user_id("browser-1") == "alice"
        client, password = (
            await storage.oauth_clients.get(),
            await storage.app_passwords.get("dora"),
        )
        assert client is not None
        assert client.client_secret == CLIENT_SECRET
        assert password is not None
        assert password.password == "ap-dora"


def test_an_id_that_is_there_as_a_hash_too_is_kept_and_reported(token_db: Path) -> None:
    """A row that was put back in plain beside the one that was hashed: nothing fails."""
    insert = "INSERT INTO browser_sessions VALUES (?, 'alice', 1, 2)"
    with opened(token_db) as connection:
        connection.execute(insert, ("a-session-in-plain-text",))
        connection.execute(insert, (str(hashed("a-session-in-plain-text")),))
    grant(token_db, "alice")
    done = rotate(given(token_db))
    assert done.rotated == {"refresh_tokens": 1}
    assert +Counter(done.census.pending) == {"browser_sessions": 1}


def test_what_is_not_accepted_any_more_is_not_rotated(token_db: Path) -> None:
    """A Fernet text that was put back from a backup does not become a valid one."""
    grant(token_db, "alice")
    rotate(given(token_db, KEY))
    retire(given(token_db, KEY), OLDER)
    grant(token_db, "mallory")
    before = secrets(token_db)
    done = rotate(given(token_db, KEY))
    assert done.rotated == {}
    assert [(one.row, one.reason) for one in done.census.unopened] == [("mallory", NOT_ACCEPTED)]
    assert secrets(token_db) == before


def test_a_second_rotation_writes_nothing(filled: Path) -> None:
    """Secrets under the primary key are skipped, so that a rotation can be continued."""
    rotate(given(filled))
    before = secrets(filled)
    assert rotate(given(filled)).rotated == {}
    assert secrets(filled) == before


def test_a_secret_keeps_its_storage_class(token_db: Path) -> None:
    """TEXT of a restored dump stays TEXT."""
    old = Fernet(KEY).encrypt(b"secret")
    grant(token_db, "text", old.decode())
    grant(token_db, "blob", old)
    rotate(given(token_db))
    assert [type(value) for value in secrets(token_db).values()] == [str, bytes]
    assert tokens(token_db, NEW) == {"text": "secret", "blob": "secret"}


def test_stored_scopes_that_a_store_refuses_stay(token_db: Path) -> None:
    """A rotation works below the checks of a store: what was read is not written again."""
    grant(token_db, "alice")
    execute(token_db, "UPDATE refresh_tokens SET scopes = '[\"a b\", \"\"]', user_id = ''")
    assert rotate(given(token_db)).rotated == {"refresh_tokens": 1}
    query = "SELECT user_id, scopes, updated_at FROM refresh_tokens"
    assert rows(token_db, query) == [("", '["a b", ""]', 1)]


def test_what_no_key_opens_is_listed_and_kept(token_db: Path) -> None:
    """A secret of a lost key, one that is not encrypted, and bytes that are no text."""
    grant(token_db, "alice")
    grant(token_db, "lost", Fernet(OTHER_KEY).encrypt(b"lost"))
    grant(token_db, "plain", "not encrypted")
    grant(token_db, "bytes", b"\xff\x00gAAAA")
    execute(
        token_db,
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
        "VALUES ('no text', CAST(x'67414141ff' AS TEXT), 1, 1)",
    )
    query = "SELECT user_id, CAST(encrypted_token AS BLOB) FROM refresh_tokens WHERE rowid > 1"
    before = rows(token_db, query)
    done = rotate(given(token_db))
    assert done.rotated == {"refresh_tokens": 1}
    assert done.census.unopened == tuple(
        Unopened("refresh_tokens", "encrypted_token", user, NO_KEY)
        for user in ("lost", "plain", "bytes", "no text")
    )
    assert rows(token_db, query) == before
    assert LOST not in {key.fingerprint for key in done.census.keys}


def test_only_a_key_that_opens_nothing_is_refused(token_db: Path) -> None:
    """With a wrong key, or none, nothing is changed."""
    grant(token_db, "alice")
    before = secrets(token_db)
    with refuses("wrong-key"):
        rotate(given(token_db, NEW))
    token_db.with_name("tokens.db.key").unlink(missing_ok=True)
    with refuses("key-missing"):
        rotate(given(token_db)._replace(keys=()))
    assert secrets(token_db) == before


@pytest.mark.parametrize("revision", ["005", "010"])
def test_an_older_database_must_be_upgraded_first(revision: str, tmp_path: Path) -> None:
    """A server of the previous release may be running on it: it is not migrated."""
    path = tmp_path / "tokens.db"
    upgrade_database(path, revision)
    grant(path, "alice")
    before = secrets(path)
    with refuses("upgrade-pending", match="is not at head"):
        rotate(given(path))
    assert secrets(path) == before


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    """A wrong path is an error, and leaves no file."""
    with refuses("bad-path"):
        rotate(given(tmp_path / "tokens.db"))
    assert list(tmp_path.iterdir()) == []


class Interloper:
    """Stores a new token after a rotation has read the old one, and before it writes."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key, self.stored = path, key, 0

    def interrupt(self, patch: pytest.MonkeyPatch) -> None:
        """Store new tokens after the first page that a reader reads."""
        read = reader._FileReader.pages

        def pages(made: reader._FileReader, name: str) -> Iterator[list[Stored]]:
            for found in read(made, name):
                if not self.stored:
                    self.stored += 1
                    with opened(self._path) as other:
                        new = Fernet(self._key).encrypt(b"refreshed")
                        other.execute("UPDATE refresh_tokens SET encrypted_token = ?", (new,))
                yield found

        patch.setattr(reader._FileReader, "pages", pages)


@pytest.mark.parametrize("key", [NEW, KEY], ids=["new", "old"])
def test_a_token_that_is_stored_meanwhile_is_not_overwritten(
    key: str, token_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the server still encrypts with the old key: it is rotated in another pass."""
    grant(token_db, "alice")
    grant(token_db, "bob")
    Interloper(token_db, key).interrupt(monkeypatch)
    grant_in_login_flow(token_db)
    done = rotate(given(token_db))
    assert tokens(token_db, NEW) == {"alice": "refreshed", "bob": "refreshed"}
    assert not any(done.census.pending.values())


def grant_in_login_flow(path: Path) -> None:
    """Store a login flow, so that the first pass changes something."""
    with opened(path) as connection:
        connection.execute(
            "INSERT INTO login_flow_sessions VALUES ('alice', ?, 'https://nc', NULL, 1, 2)",
            (encrypted("poll"),),
        )


def test_without_the_comparison_the_token_would_be_lost(
    token_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: an update by rowid alone brings the old token back."""

    def by_rowid(name: str, _: object, __: object, changed: tuple[str, ...]) -> Update:
        there = literal_column("rowid") == bindparam("at")
        new: dict[str, Any] = {one: bindparam(f"new_{one}") for one in changed}
        return update(table(name, *map(column, changed))).where(there).values(new)

    grant(token_db, "alice")
    Interloper(token_db, NEW).interrupt(monkeypatch)
    monkeypatch.setattr(swapping, "_swap", by_rowid)
    rotate(given(token_db))
    assert tokens(token_db, NEW) == {"alice": "alice"}


def test_the_first_registration_has_an_entry(token_db: Path) -> None:
    """A rotation registers the keys of a database without secrets, and says so in the log."""
    upgrade_database(token_db)
    rotate(given(token_db, KEY))
    [(event, mac)] = rows(token_db, "SELECT event, mac FROM audit_logs")
    assert (event, mac[:16]) == ("promote_key", Keyring(KEY).keys[0].id)
    rotate(given(token_db, KEY))
    assert len(rows(token_db, "SELECT event FROM audit_logs")) == 1


def test_a_rotation_that_fails_says_what_it_has_done(
    token_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trigger refuses the third row: those before stay encrypted, and are told."""
    monkeypatch.setattr(rotation, "_AT_ONCE", 1)
    upgrade_database(token_db)
    grant_many(token_db, 5)
    with opened(token_db) as connection:
        connection.execute(
            "CREATE TRIGGER no BEFORE UPDATE ON refresh_tokens WHEN new.user_id = 'user-2' "
            "BEGIN SELECT raise(ABORT, 'no'); END"
        )
    with refuses("ignored", match="2 rows had been encrypted, and stay so"):
        rotate(given(token_db, KEY))


def test_a_row_that_a_trigger_keeps_is_reported(token_db: Path) -> None:
    """A rotation without progress ends, and names the key that is still in use."""
    grant(token_db, "alice")
    keep = "CREATE TRIGGER keep BEFORE UPDATE ON refresh_tokens BEGIN SELECT RAISE(IGNORE); END"
    execute(token_db, keep)
    done = rotate(given(token_db))
    assert (done.rotated, +Counter(done.census.pending)) == ({}, {"refresh_tokens": 1})


_WRITER = """
import asyncio, sys
from nextcloud_mcp_server.maintenance.keys import swap as swapping
from nextcloud_mcp_server.auth.audit import signature
from nextcloud_mcp_server.auth.secrets import digests
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main(path, *keys):
    async with RefreshTokenStorage(path, encryption_key=keys) as storage:
        loop = asyncio.get_running_loop()
        print("ready", flush=True)
        ended, number = loop.run_in_executor(None, sys.stdin.readline), 0
        while not ended.done():
            number += 1
            users = [f"user-{(number * 7 + n * 131) % 3000}" for n in range(8)]
            await asyncio.gather(
                *(storage.store_refresh_token(user, f"{user} {number}") for user in users)
            )
            for user in users:
                token = await storage.get_refresh_token(user)
                assert token.token == f"{user} {number}", token
        print(number, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("keys", [(NEW, KEY), (KEY, NEW)], ids=["restarted", "with the old key"])
def test_a_server_reads_and_writes_meanwhile(keys: tuple[str, ...], token_db: Path) -> None:
    """It reads each token that it has stored, and no token is lost or older than the last."""
    grant_many(token_db, 3000)
    with child(_WRITER, token_db, *keys) as server:
        done = rotate(given(token_db))
        rounds = int(server.ask(""))
    assert rounds > 0
    assert sum(done.rotated.values()) > 1000
    last = {
        f"user-{(number * 7 + n * 131) % 3000}": f"user-{(number * 7 + n * 131) % 3000} {number}"
        for number in range(1, rounds + 1)
        for n in range(8)
    }
    stored = tokens(token_db, NEW, KEY)
    assert stored == {f"user-{n}": f"token-{n}" for n in range(3000)} | last
    assert not any(rotate(given(token_db)).census.pending.values())
    assert tokens(token_db, NEW, KEY) == stored


def test_ten_thousand_rows_survive_kills(token_db: Path) -> None:
    """Killed anywhere, every token can be read; each next rotation does more of the rest."""
    grant_many(token_db, 10_000)
    every, old = tokens(token_db, KEY), secrets(token_db)
    environ = environment(token_db.parent, {"TOKEN_ENCRYPTION_KEY": f"{NEW};{KEY}"})
    command = [sys.executable, "-m", "nextcloud_mcp_server", "keys", "rotate", "-d", str(token_db)]
    reached = [0]
    for _ in range(3):
        with Popen(command, env=environ) as running:
            # A rotation goes by rowid.
            watched = ("refresh_tokens", "encrypted_token", reached[-1] + 1000)
            while running.poll() is None and stored(token_db, watched[2]) == old[watched]:
                time.sleep(0.001)
            running.kill()
        reached.append(rotated(token_db))
        assert tokens(token_db, NEW, KEY) == every
    assert reached == sorted(set(reached)), "each run does more"
    assert reached[-1] < 10_000, "it was not killed in the middle"
    done = rotate(given(token_db))
    assert done.rotated == {"refresh_tokens": 10_000 - reached[-1]}
    assert tokens(token_db, NEW) == every


def stored(path: Path, at: int) -> object:
    """Return the value of one row as it is stored."""
    [(value,)] = rows(path, "SELECT encrypted_token FROM refresh_tokens WHERE rowid = ?", (at,))
    return value


def rotated(path: Path) -> int:
    """Return how many refresh tokens are encrypted with the new key."""
    name = Keyring(NEW).keys[0].id
    return count_secrets(given(path)).secrets.get(("v2", name, "refresh_tokens"), 0)


async def test_a_store_in_the_same_process_stays_usable(token_db: Path) -> None:
    """A rotation can be called while a store of this process is open, inside its event loop."""
    grant(token_db, "alice")
    async with RefreshTokenStorage(token_db, encryption_key=[KEY, NEW]) as storage:
        assert rotate(given(token_db)).rotated == {"refresh_tokens": 1}
        token = await storage.get_refresh_token("alice")
        assert token is not None
        assert token.token == "alice"
    assert tokens(token_db, NEW) == {"alice": "alice"}
