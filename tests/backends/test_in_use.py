"""A command that would replace the database detects a running store, until it is closed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import in_use as module
from nextcloud_mcp_server.backends.sqlite.in_use import (
    hold,
    holders,
    in_use,
    inuse_path,
    require_idle,
)
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.filesystem.flock import Hold
from nextcloud_mcp_server.migrations import downgrade_database, upgrade_database
from tests.support.child import child, run_python
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import BEFORE
from tests.support.unprivileged import as_nobody, open_folder

OPEN = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1], encryption_key=sys.argv[2]):
        print("ready", flush=True)
        sys.stdin.read()

asyncio.run(main())
"""

FORK = """
import os, sys
from pathlib import Path
from typing import Any
from nextcloud_mcp_server.backends.sqlite.in_use import hold, in_use

path = Path(sys.argv[1])
share = hold(path)
ready, started = os.pipe()
wait, end = os.pipe()
child = os.fork()
if child == 0:
    os.close(end)
    os.write(started, b"x")
    os.read(wait, 1)
    os._exit(0)
os.read(ready, 1)
share.release()
kept = in_use(path)
second = hold(path)
os.close(end)
os.waitpid(child, 0)
print(kept, in_use(path))
"""

WITHOUT_HOOK = """
import os
import socket
os.register_at_fork = lambda **hooks: None
"""


def signatures(path: Path) -> list[dict[str, Any]]:
    """Return what the holders wrote into the lock file."""
    lines = inuse_path(path).read_text().rstrip().splitlines()
    return [json.loads(line) for line in lines]


def held(path: Path) -> Hold:
    """Return a hold, which must be possible."""
    share = hold(path)
    assert share is not None
    return share


async def test_an_open_store_is_in_use_until_it_is_closed(path: Path) -> None:
    """It is in use from initialize() to close(); the file stays, private, and names who it was."""
    assert not in_use(path)
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    await storage.initialize()
    assert in_use(path)
    assert holders(path) in {(), (os.getpid(),)}
    await storage.close()
    assert not in_use(path)
    assert inuse_path(path).stat().st_mode & 0o777 == 0o600
    assert [line["pid"] for line in signatures(path)] == [os.getpid()]


def test_a_check_creates_no_file(path: Path) -> None:
    """A command that only reads creates no file."""
    upgrade_database(path)
    before = names(path.parent)
    assert not in_use(path)
    assert holders(path) == ()
    assert names(path.parent) == before


def test_several_stores_share_it(path: Path) -> None:
    """It is in use until the last of them is released; releasing twice does nothing."""
    first, second = held(path), held(path)
    first.release()
    first.release()
    assert in_use(path)
    second.release()
    assert not in_use(path)


def test_the_file_names_who_opened_it_since_nobody_had_it(path: Path) -> None:
    """Each process is named once, with its host; the first holder empties the file."""
    inuse_path(path).write_text('{"pid": 7, "host": "gone", "since": "then"}\n')
    first, again = held(path), held(path)
    with child(OPEN, path, KEY) as running:
        names = [(line["pid"], line["host"]) for line in signatures(path)]
        host = socket.gethostname()
        assert names == [(os.getpid(), host), (running.process.pid, host)]
    first.release()
    again.release()


def test_a_file_that_many_opened_stays_small(path: Path) -> None:
    """The newest holders stay, and a line that a crash cut off is left out."""
    share = held(path)
    old = ({"pid": n, "host": "h" * 64, "since": "2026-11-29 10:00:00"} for n in range(30))
    inuse_path(path).write_text("".join(f"{json.dumps(line)}\n" for line in old) + '{"pid": 3')
    held(path).release()
    assert [line["pid"] for line in signatures(path)] == [*range(15, 30), os.getpid()]
    share.release()


def test_the_file_of_another_program_is_not_written(path: Path) -> None:
    """A file of that name with other content is locked, and keeps its content."""
    inuse_path(path).write_text("mine\n")
    held(path).release()
    assert inuse_path(path).read_text() == "mine\n"


def test_a_link_and_its_file_are_one_database(path: Path, tmp_path: Path) -> None:
    """A hold through a link is found at the file."""
    path.touch()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    share = held(link)
    assert in_use(path)
    share.release()


def test_another_process_is_named_until_it_is_killed(path: Path) -> None:
    """The kernel knows the process, and frees the lock when it is killed."""
    with child(OPEN, path, KEY) as running:
        assert in_use(path)
        assert holders(path) in {(), (running.process.pid,)}
        error = refused(lambda: require_idle(path))
        assert (error.code, str(path) in error.message) == ("in-use", True)
        require_idle(path, while_running=True)
        running.kill()
    assert not in_use(path)


@pytest.mark.parametrize(("hook", "states"), [("", "False True"), (WITHOUT_HOOK, "True True")])
def test_a_forked_child_holds_nothing(hook: str, states: str, path: Path) -> None:
    """A child holds no lock for a closed store, and its end frees no other hold.

    Negative control: without the hook at the fork, the lock stays until the child ends.
    """
    assert run_python(hook + FORK, path) == states


def test_it_is_taken_before_the_migration_lock_is_released(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that gets the migration lock always finds the store in use."""
    codes: list[str] = []
    real = module.hold

    def watched(database: Path) -> Hold | None:
        def take() -> None:
            with guard(database, 0.0):
                codes.append("free")

        codes.append(refused(take).code)
        return real(database)

    async def start() -> None:
        for _ in range(2):
            async with RefreshTokenStorage(path, encryption_key=KEY):
                pass

    with monkeypatch.context() as patch:
        patch.setattr(module, "hold", watched)
        asyncio.run(start())
    assert codes == ["lock-timeout", "lock-timeout"]


async def test_a_start_that_is_cancelled_or_refused_holds_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that is cancelled late or has a wrong key holds no lock afterwards."""
    entered, go = threading.Event(), threading.Event()
    real = module.hold

    def slow(database: Path) -> Hold | None:
        share = real(database)
        entered.set()
        go.wait(10)
        return share

    with monkeypatch.context() as patch:
        patch.setattr(module, "hold", slow)
        storage = RefreshTokenStorage(path, encryption_key=KEY)
        task = asyncio.create_task(storage.initialize())
        assert await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert in_use(path)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not in_use(path)


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
async def test_without_a_hold_the_store_works(
    what: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the file cannot be made there is one warning; a link is not followed."""
    place = inuse_path(path)
    if what == "folder":
        place.mkdir()
    elif what == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("elsewhere")
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
    warnings = [r.getMessage() for r in caplog.records if "cannot be locked" in r.getMessage()]
    assert len(warnings) == 1
    assert str(place) in warnings[0]
    assert not path.with_name("elsewhere").exists()
    assert not in_use(path)


async def test_the_file_of_another_program_stays_as_it_is(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A start keeps its content and mode and warns that a command cannot name this server."""
    place = inuse_path(path)
    place.write_text("somebody's text\n")
    place.chmod(0o644)
    before = place.read_bytes(), place.stat().st_mode
    upgrade_database(path)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        assert in_use(path)
    assert (place.read_bytes(), place.stat().st_mode) == before
    [warning] = [r.getMessage() for r in caplog.records if str(place) in r.getMessage()]
    assert "is the file of another program" in warning
    assert f"mv {place} {place}.moved" in warning


def test_an_own_file_is_made_private(path: Path) -> None:
    """A lock file with what a server wrote, or with nothing, is closed to others."""
    upgrade_database(path)
    for place in (inuse_path(path), path.with_name("tokens.db.lock")):
        for content in ("", '{"pid": 7, "host": "gone", "since": "then"}\n'):
            place.write_text(content)
            place.chmod(0o644)
            upgrade_database(path)
            assert place.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("what", ["folder", "pipe"])
def test_an_unknown_state_stops_a_change(what: str, path: Path) -> None:
    """If the lock cannot be read, the change is refused unless --while-running is given."""
    upgrade_database(path)
    place = inuse_path(path)
    place.mkdir() if what == "folder" else os.mkfifo(place)
    before = path.read_bytes()
    error = refused(lambda: downgrade_database(path, "-1"))
    assert (error.code, path.read_bytes()) == ("in-use", before)
    assert error.message.startswith(f"Cannot determine whether a server is using {path}")
    assert downgrade_database(path, "-1", while_running=True).after == BEFORE


def test_a_folder_that_cannot_be_written_gives_one_warning() -> None:
    """A store at head in a read-only folder serves, with one warning in total."""
    with open_folder() as folder:
        path = folder / "tokens.db"
        upgrade_database(path)
        path.chmod(0o644)
        path.with_name("tokens.db.lock").unlink()
        output = as_nobody(
            """
import logging
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")

async def main(path):
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.list_user_ids()

asyncio.run(main(sys.argv[1]))
""",
            path,
        )
        assert not inuse_path(path).exists()
    assert output.count("locked") == 1


def test_a_check_by_a_command_delays_no_start(path: Path) -> None:
    """A start waits while a command checks the lock, and never for five seconds."""
    place = inuse_path(path)
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    threading.Timer(0.1, os.close, [descriptor]).start()
    share = held(path)
    share.release()
    other = os.open(place, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX)
    begun = time.monotonic()
    assert hold(path) is None
    assert time.monotonic() - begun < 5
    os.close(other)
