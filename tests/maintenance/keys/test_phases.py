"""A key is introduced, promoted, rotated to and retired beside running servers."""

from __future__ import annotations

import ast
import asyncio
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import cycle
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

import psycopg
import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth import audit, concern, key_registry
from nextcloud_mcp_server.auth.statements import locking
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.schema import tables
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import environment
from tests.maintenance.keys.helpers import NEW, NEWEST, OLDER, TOKEN
from tests.support.child import Child
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.postgresql import Server


class Place(NamedTuple):
    """A database at head, as a store and a command name it."""

    name: str
    folder: Path

    def settings(self, *keys: str) -> Settings:
        """Return settings with these keys (default: both)."""
        return Settings(Path(), keys or (NEW, KEY)).with_database(self.name)

    def store(self, *keys: str) -> RefreshTokenStorage:
        """Return a store with these keys (default: both)."""
        return RefreshTokenStorage(self.name, encryption_key=keys or (NEW, KEY))

    def fill(self, number: int) -> None:
        """Store the tokens of users as a released version did, then a secret of a server."""
        fernet = Fernet(KEY)
        tokens = [(f"user-{n}", fernet.encrypt(f"user-{n} 0".encode())) for n in range(number)]
        insert = (
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES ({0}, {0}, 1, 1)"
        )
        if "://" in self.name:
            with psycopg.connect(self.name) as server, server.cursor() as cursor:
                cursor.executemany(insert.format("%s"), tokens)
        else:
            with closing(sqlite3.connect(self.name)) as connection:
                connection.executemany(insert.format("?"), tokens)
                connection.commit()

        async def first() -> None:
            async with self.store(KEY) as storage:
                await storage.store_refresh_token("first", "first 0")

        asyncio.run(first())

    def tokens(self, *keys: str) -> dict[str, str]:
        """Return every token, read by a store with these keys."""

        async def read() -> dict[str, str]:
            async with self.store(*keys) as storage:
                found = {}
                for user in await storage.list_user_ids():
                    token = await storage.get_refresh_token(user)
                    assert token is not None
                    found[user] = token.token
                return found

        return asyncio.run(read())


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty database at head, on each engine."""
    if request.param == "sqlite":
        return Place(str(request.getfixturevalue("token_db")), tmp_path)
    server: Server = request.getfixturevalue("postgresql_server")
    return Place(server.schema_at_head()[1], tmp_path)


_SERVER = """
import asyncio, random, sys
from nextcloud_mcp_server.auth.statements import locking
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main(database, what, number):
    failed, done, stored = [], 0, {}
    async with RefreshTokenStorage(database) as storage:
        loop = asyncio.get_running_loop()
        print("ready", flush=True)
        ended = loop.run_in_executor(None, sys.stdin.readline)
        while not ended.done():
            done += 1
            # Each writer has users of its own.
            user = f"user-{random.randrange(int(number)) // 2 * 2 + (what == 'writer-1')}"
            try:
                if what != "reader":
                    await storage.store_refresh_token(user, f"{user} {done}")
                    stored[user] = f"{user} {done}"
                token = await storage.get_refresh_token(user)
                wanted = stored.get(user) if what != "reader" else None
                if wanted is not None and token.token != wanted or not token.token.startswith(user):
                    failed.append((user, token.token, wanted))
            except Exception as error:
                failed.append((user, repr(error)))
            # Without a pause these processes keep two cores from the server for half a minute.
            await asyncio.sleep(0.001)
    print(repr((done, failed[:3], stored)), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""

#: What each of the processes does, and whether it gets its keys from a file, which is changed.
_PROCESSES = (
    *(("reader", True), ("reader", True), ("reader", False), ("reader", False)),
    *(("writer-0", True), ("writer-1", False)),
)

_ROWS = 10_000


def test_no_read_fails_in_any_phase(place: Place) -> None:
    """Half of the processes have both keys, half a file that gets the new one under them."""
    place.fill(_ROWS)
    file = place.folder / "keys"
    _write(file, KEY)
    both = {"TOKEN_ENCRYPTION_KEY": f"{NEW};{KEY}"}
    one = {"TOKEN_ENCRYPTION_KEY_FILE": str(file)}
    with ExitStack() as stack:
        running = []
        for what, has_file in _PROCESSES:
            environ = environment(place.folder, one if has_file else both)
            running.append(Child(_SERVER, place.name, what, _ROWS, environ=environ))
            stack.callback(running[-1].kill)
        assert [process.answer() for process in running] == ["ready"] * len(running)
        assert introduce(place.settings()).fingerprint == NEWEST
        _write(file, NEW, KEY)
        assert promote(place.settings(), NEWEST).changed
        done = rotate(place.settings())
        assert not any(done.census.pending.values())
        assert retire(place.settings(), OLDER, fernet=True).changed
        assert retire(place.settings(), OLDER).changed
        # Each of them once more, with what is there now.
        time.sleep(0.5)
        answers = [ast.literal_eval(process.ask("")) for process in running]
    assert [failed for _, failed, _ in answers if failed] == []
    assert all(number > 0 for number, _, _ in answers)
    last = {user: token for *_, stored in answers for user, token in stored.items()}
    wanted = {f"user-{n}": f"user-{n} 0" for n in range(_ROWS)} | {"first": "first 0"} | last
    assert place.tokens(NEW) == wanted


def _write(file: Path, *keys: str) -> None:
    """Replace a key file by a rename."""
    new = file.with_name("new")
    new.touch(0o600)
    new.write_text("\n".join(keys))
    new.replace(file)


@contextmanager
def held_writer(place: Place) -> Iterator[Callable[[], None]]:
    """Let a store write with the old key, and hold its transaction open until the yielded call.

    The transaction has done all but its commit, so it has read which key encrypts.
    """
    wrote, may_commit = threading.Event(), threading.Event()
    record = audit.record

    def slow(*arguments: Any) -> None:
        record(*arguments)
        wrote.set()
        assert may_commit.wait(30)

    async def write() -> None:
        async with place.store() as storage:
            await storage.store_refresh_token("late", "late 0")

    writer = threading.Thread(target=asyncio.run, args=(write(),))

    def end() -> None:
        may_commit.set()
        writer.join(30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concern, "record", slow)
        writer.start()
        assert wrote.wait(30)
    try:
        yield end
    finally:
        end()


def test_a_writer_that_began_with_the_old_key_is_waited_for(place: Place) -> None:
    """Its text is there when the promotion returns, so that the key is not retired over it."""
    place.fill(1)
    rotate(place.settings(KEY))
    introduce(place.settings(), NEWEST)
    promoted: list[object] = []
    other = threading.Thread(target=lambda: promoted.append(promote(place.settings(), NEWEST)))
    with held_writer(place) as end:
        other.start()
        other.join(0.5)
        assert promoted == []
        end()
        other.join(30)
    assert promoted
    retire(place.settings(), OLDER, fernet=True)
    with refuses("key-needed", match=r"\(3 in refresh_tokens\)"):
        retire(place.settings(), OLDER)
    rotate(place.settings())
    retire(place.settings(NEW), OLDER)
    assert place.tokens(NEW)["late"] == "late 0"


@pytest.mark.parametrize("lock", ["none", "SHARE ROW EXCLUSIVE", "EXCLUSIVE"])
def test_without_the_barrier_the_writer_is_not_waited_for(
    lock: str, postgresql_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: the key is retired over a text that comes later.

    Neither without a lock nor with one that readers of the keys can share. On SQLite a writer
    is alone, whatever is done here.
    """
    place = Place(postgresql_server.schema_at_head()[1], tmp_path)
    place.fill(1)
    rotate(place.settings(KEY))
    retire(place.settings(KEY), OLDER, fernet=True)
    introduce(place.settings(), NEWEST)
    weaker = locking(tables.keys, lock)
    barrier = key_registry._REGISTERED if lock == "none" else weaker
    monkeypatch.setattr(key_registry, "_BARRIER", barrier)
    with held_writer(place) as end:
        assert promote(place.settings(), NEWEST).changed
        rotate(place.settings())
        assert retire(place.settings(), OLDER).changed
        end()
    secrets = count_secrets(place.settings()).secrets
    assert secrets["v2", Keyring(KEY).keys[0].id, "refresh_tokens"] == 1
    with refuses("undecryptable"):
        place.tokens(NEW)


@contextmanager
def writing(place: Place, user: str, text: bytes) -> Iterator[Callable[[], None]]:
    """Hold a transaction that stores a text, until the yielded call commits it.

    As each store does, it has read which key encrypts.
    """
    insert = (
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
        "VALUES ({0}, {0}, 1, 1)"
    )
    if "://" in place.name:
        with psycopg.connect(place.name) as server:
            server.execute("SELECT state FROM keys").fetchall()
            server.execute(insert.format("%s"), (user, text))
            yield server.commit
    else:
        with closing(sqlite3.connect(place.name, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(insert.format("?"), (user, text))
            yield connection.commit


def late_text(user: str) -> bytes:
    """Return a token of a user that the old key has encrypted."""
    row = {"user_id": user, "token_audience": "nextcloud"}
    return Keyring(KEY).keys[0].seal(f"{user} 0".encode(), binding(TOKEN, row))


def ready_to_retire(place: Place) -> None:
    """Let no value need the old key."""
    place.fill(1)
    introduce(place.settings(), NEWEST)
    promote(place.settings(), NEWEST)
    rotate(place.settings())
    retire(place.settings(), OLDER, fernet=True)


def test_a_text_that_comes_after_the_first_count_keeps_its_key(place: Place) -> None:
    """A retirement counts again when every writer that has read the keys has ended."""
    ready_to_retire(place)
    codes: list[str] = []

    def retiring() -> None:
        try:
            retire(place.settings(), OLDER)
        except TokenStorageError as error:
            codes.append(error.code)

    other = threading.Thread(target=retiring)
    with writing(place, "late", late_text("late")) as commit:
        other.start()
        other.join(1)
        assert other.is_alive()
        commit()
        other.join(30)
    assert codes == ["key-needed"]
    assert place.tokens()["late"] == "late 0"


def test_without_the_second_count_the_key_is_retired_over_a_text(
    postgresql_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    place = Place(postgresql_server.schema_at_head()[1], tmp_path)
    ready_to_retire(place)
    monkeypatch.setattr(key_registry, "_BARRIER", key_registry._REGISTERED)
    with writing(place, "late", late_text("late")) as commit:
        assert retire(place.settings(), OLDER).changed
        commit()
    with refuses("undecryptable"):
        place.tokens(NEW)


def test_a_store_encrypts_with_the_promoted_key_at_once(place: Place) -> None:
    """It has remembered the former one; its write runs again with the one that encrypts now."""

    async def both() -> None:
        async with place.store() as storage:
            await storage.store_refresh_token("before", "before 0")
            await asyncio.to_thread(promote, place.settings(), NEWEST)
            await storage.store_refresh_token("after", "after 0")

    place.fill(1)
    introduce(place.settings(), NEWEST)
    asyncio.run(both())
    secrets = count_secrets(place.settings()).secrets
    assert secrets["v2", Keyring(NEW).keys[0].id, "refresh_tokens"] == 1


def test_each_row_that_needs_a_key_keeps_it(place: Place) -> None:
    """Of the last key for released values: also plain values and ids, and what no key opens."""
    place.fill(2)
    settings = place.settings(KEY)
    with refuses("key-needed", match="2 values"):
        retire(settings, OLDER)
    rotate(settings)
    lost = Keyring(OTHER_KEY).keys[0].encrypt_fernet(b"lost")
    execute_in(
        place, "UPDATE refresh_tokens SET encrypted_token = {} WHERE user_id = 'user-1'", lost
    )
    with refuses("key-needed", match="1 value ") as refused:
        retire(settings, OLDER)
    assert "refresh_tokens of 'user-1'" in refused.value.remedy
    execute_in(place, "DELETE FROM refresh_tokens WHERE user_id = {}", "user-1")
    execute_in(place, "INSERT INTO browser_sessions VALUES ({}, 'alice', 1, 2)", "a-plain-id-00001")
    with refuses("key-needed", match="browser_sessions"):
        retire(settings, OLDER)
    rotate(settings)
    assert retire(settings, OLDER).changed


def execute_in(place: Place, sql: str, value: object) -> None:
    """Execute a statement with one parameter, on each engine."""
    if "://" in place.name:
        with psycopg.connect(place.name) as server:
            server.execute(sql.format("%s"), (value,))
    else:
        with closing(sqlite3.connect(place.name)) as connection:
            connection.execute(sql.format("?"), (value,))
            connection.commit()


def test_an_old_text_that_is_put_back_is_not_opened(place: Place) -> None:
    """As soon as the last key for released values is retired, and again once one is introduced."""
    place.fill(1)
    settings = place.settings(KEY)
    rotate(settings)
    retire(settings, OLDER)
    old = Fernet(KEY).encrypt(b"old")
    sql = "UPDATE refresh_tokens SET encrypted_token = {} WHERE user_id = 'user-0'"
    execute_in(place, sql, old)
    with refuses("undecryptable"):
        place.tokens(KEY)
    introduce(settings, fernet=True)
    assert place.tokens(KEY)["user-0"] == "old"


def test_killed_at_any_point_nothing_is_lost(place: Place) -> None:
    """A rotation or a retirement that is run again does the rest."""
    place.fill(3000)
    wanted = {f"user-{n}": f"user-{n} 0" for n in range(3000)} | {"first": "first 0"}
    introduce(place.settings(), NEWEST)
    promote(place.settings(), NEWEST)
    environ = environment(place.folder, {"TOKEN_ENCRYPTION_KEY": f"{NEW};{KEY}"})
    option = "-u" if "://" in place.name else "-d"
    program = [sys.executable, "-m", "nextcloud_mcp_server", "keys"]
    shares = cycle((0.9, 0.4, 0.7, 0.2, 0.8))
    for command in (["rotate"], ["rotate"], ["retire", OLDER, "--fernet"], ["retire", OLDER]):
        seconds = 0.5
        for _ in range(4):
            with Popen([*program, *command, option, place.name], env=environ, stdout=PIPE) as run:
                time.sleep(seconds * next(shares))
                if run.poll() is not None:
                    break
                run.kill()
                seconds *= 2
        assert place.tokens() == wanted
    rotate(place.settings())
    retire(place.settings(), OLDER, fernet=True)
    retire(place.settings(), OLDER)
    assert place.tokens(NEW) == wanted
