"""A rotation encrypts every secret with the newest key, and loses none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Update, bindparam, column, literal_column, table, update

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.keys import reader
from nextcloud_mcp_server.maintenance.keys import rotate as rotation
from nextcloud_mcp_server.maintenance.keys.census import Unopened, count_secrets
from nextcloud_mcp_server.maintenance.keys.reader import Secret
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.migrations import upgrade_database
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from tests.cli.places import environment, execute, rows
from tests.maintenance.keys.helpers import (
    LOST,
    NEW,
    NEWEST,
    OLDER,
    given,
    grant,
    grant_many,
    opened,
    secrets,
    tokens,
)
from tests.support.child import child
from tests.support.contents import KEY, OTHER_KEY, encrypted
from tests.support.errors import refuses
from tests.support.revisions import HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot

ENCRYPTED_COLUMNS = {column for _, column in ENCRYPTED}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A database at head with rows in every table."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    path.chmod(0o600)
    return path


def test_every_table_is_rotated_and_nothing_else_changes(filled: Path) -> None:
    """Login flows and clients too; each other value of each row stays as it is."""
    before, old = snapshot(filled), secrets(filled)
    done = rotate(given(filled))
    after = snapshot(filled)
    new = secrets(filled)
    assert {table for table, _, _ in new} == {table for table, _ in ENCRYPTED}
    ring = Keyring([NEW])
    assert {k: ring.decrypt(v) for k, v in new.items()} == {
        k: Keyring([KEY]).decrypt(v) for k, v in old.items()
    }
    assert sum(done.rotated.values()) == len(new)
    assert (done.census.older, done.census.unopened) == ({}, ())
    for name, held in before.rows.items():
        plain = [
            [{c: v for c, v in row.items() if c not in ENCRYPTED_COLUMNS} for row in these]
            for these in (held, after.rows[name])
        ]
        assert plain[0] == plain[1], name


def test_a_second_rotation_writes_nothing(filled: Path) -> None:
    """Secrets under the newest key are skipped, so that a rotation can be continued."""
    rotate(given(filled))
    before = secrets(filled)
    assert rotate(given(filled)).rotated == {}
    assert secrets(filled) == before


def test_a_secret_keeps_its_storage_class_and_its_time(token_db: Path) -> None:
    """TEXT of a restored dump stays TEXT; the timestamp in a Fernet token is not changed."""
    old = Fernet(KEY).encrypt_at_time(b"secret", 1_500_000_000)
    grant(token_db, "text", old.decode())
    grant(token_db, "blob", old)
    rotate(given(token_db))
    kinds = {at: value for (_, _, at), value in secrets(token_db).items()}
    assert [type(value) for value in kinds.values()] == [str, bytes]
    for value in kinds.values():
        assert Fernet(NEW).extract_timestamp(value) == 1_500_000_000


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
        Unopened("refresh_tokens", "encrypted_token", user)
        for user in ("lost", "plain", "bytes", "no text")
    )
    assert rows(token_db, query) == before
    assert LOST not in done.census.keys


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

        def pages(made: reader._FileReader, name: str, of: str) -> Iterator[list[Secret]]:
            for found in read(made, name, of):
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
    assert done.census.older == {}


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

    def by_rowid(name: str, of: str, _: object) -> Update:
        there = literal_column("rowid") == bindparam("at")
        return update(table(name, column(of))).where(there).values({of: bindparam("new")})

    grant(token_db, "alice")
    Interloper(token_db, NEW).interrupt(monkeypatch)
    monkeypatch.setattr(rotation, "_statement", by_rowid)
    rotate(given(token_db))
    assert tokens(token_db, NEW) == {"alice": "alice"}


def test_a_row_that_a_trigger_keeps_is_reported(token_db: Path) -> None:
    """A rotation without progress ends, and names the key that is still in use."""
    grant(token_db, "alice")
    keep = "CREATE TRIGGER keep BEFORE UPDATE ON refresh_tokens BEGIN SELECT RAISE(IGNORE); END"
    execute(token_db, keep)
    done = rotate(given(token_db))
    assert (done.rotated, done.census.older) == ({}, {OLDER: 1})


_WRITER = """
import asyncio, sys
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
    rotate(given(token_db))
    assert tokens(token_db, NEW) == stored


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
    """Return how many refresh tokens the new key opens."""
    return count_secrets(given(path)).by_table(NEWEST).get("refresh_tokens", 0)


async def test_a_store_in_the_same_process_stays_usable(token_db: Path) -> None:
    """A rotation can be called while a store of this process is open, inside its event loop."""
    async with RefreshTokenStorage(token_db, encryption_key=[KEY, NEW]) as storage:
        await storage.store_refresh_token("alice", "secret")
        assert rotate(given(token_db)).rotated == {"refresh_tokens": 1}
        token = await storage.get_refresh_token("alice")
        assert token is not None
        assert token.token == "secret"
    assert tokens(token_db, NEW) == {"alice": "secret"}
