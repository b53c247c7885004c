"""A signal stops the server at any time, and no work is interrupted.

``tests/faults/test_sigterm.py`` sends signals at random moments of a start.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.server import run as module
from nextcloud_mcp_server.server.run import serve
from nextcloud_mcp_server.settings import Settings
from tests.server.helpers import (
    SLOW_ROUTE,
    SLOWLY,
    Server,
    fails,
    is_locked,
    leftovers,
    revision,
    stop_at_once,
    wait_for,
    wait_until_at_work,
)
from tests.support.contents import KEY

pytestmark = pytest.mark.usefixtures("as_before")


def test_signal_handlers_are_restored(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop without a signal the previous handlers are restored."""
    monkeypatch.setattr("uvicorn.Server.main_loop", stop_at_once)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    serve(port=0, settings=Settings(database, keys=(KEY,)))

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_ends_the_wait_for_the_lock(old_database: Path) -> None:
    """While another process holds the lock, SIGTERM stops the start at once."""
    with guard(old_database, 0), Server(old_database) as server:
        wait_until_at_work(server)
        status, errors = server.stop()

    assert status == 1
    assert errors.splitlines()[-2].startswith("error: The start was asked to stop")
    assert errors.splitlines()[-1].startswith("remedy: ")
    assert "Traceback" not in errors
    assert revision(old_database) == "006"


#: Python code that sends SIGTERM to the thread of a start, where it does not wake the event loop.
ELSEWHERE = """
import signal, threading, time

def send():
    while True:
        for thread in threading.enumerate():
            if thread.name == "token-store-start":
                time.sleep(0.3)
                signal.pthread_kill(thread.ident, signal.SIGTERM)
                return
        time.sleep(0.01)

threading.Thread(target=send, daemon=True).start()
"""


def test_a_signal_that_does_not_wake_the_event_loop_is_handled(old_database: Path) -> None:
    """It can arrive in another thread, or just before the loop sleeps."""
    with guard(old_database, 0), Server(old_database, ELSEWHERE) as server:
        status, errors = server.end()
    assert status == 1
    assert errors.splitlines()[-2].startswith("error: The start was asked to stop")


def test_a_signal_lets_a_migration_finish(old_database: Path, head: str) -> None:
    """After signals during a migration it is finished under the lock, and nothing is served."""
    with Server(old_database, SLOWLY) as server:
        wait_for(server.sign)
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        assert is_locked(old_database)
        server.process.send_signal(signal.SIGTERM)
        server.sign.unlink()
        status, errors = server.end()

    assert status == 1
    assert not any(line.startswith("listening") for line in server.output)
    assert f"is at revision {head}" in errors
    assert "Traceback" not in errors
    assert revision(old_database) == head


def test_many_signals_are_one_stop(database: Path) -> None:
    """With signals until the process has ended: status 0, no error, no WAL."""
    with Server(database) as server:
        server.url()
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.0005)
        status, errors = server.end()

    assert (status, errors) == (0, "")
    assert server.output[-1] == "stopped"
    assert leftovers(database) == set()


def test_a_stop_lets_a_request_finish(database: Path) -> None:
    """A request that runs at SIGTERM gets its response, from an open store."""
    with Server(database, SLOW_ROUTE) as server, ThreadPoolExecutor() as executor:
        asked = executor.submit(httpx.get, f"{server.url()}/slow")
        wait_for(server.sign)
        status, errors = server.stop()

    assert asked.result().json() == []
    assert (status, errors) == (0, "")


@pytest.mark.parametrize("moment", ["bind", "create_app"])
def test_a_signal_before_the_start_begins_nothing(
    moment: str,
    old_database: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A signal before the store is opened changes nothing."""
    before = getattr(module, moment)

    def interrupted(*arguments: object, **others: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return before(*arguments, **others)

    monkeypatch.setattr(module, moment, interrupted)
    error = fails(capfd, Settings(old_database, keys=(KEY,)))

    assert "asked to stop" in error
    assert revision(old_database) == "006"


def test_a_signal_between_opening_and_listening_serves_nobody(
    old_database: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    head: str,
) -> None:
    """The upgrade is printed, and nothing is served."""
    create_server = asyncio.SelectorEventLoop.create_server
    calls: list[object] = []

    async def late(loop: asyncio.SelectorEventLoop, *args: object, **others: object) -> object:
        calls.append(loop)
        # The first one answers 503 during the migration.
        if len(calls) > 1:
            signal.raise_signal(signal.SIGINT)
        return await create_server(loop, *args, **others)  # type: ignore[call-overload]

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_server", late)
    assert serve(port=0, settings=Settings(old_database, keys=(KEY,))) == 1

    out, err = capfd.readouterr()
    assert f"upgraded {old_database} from 006 to {head}" in out
    assert "listening" not in out
    assert "asked to stop" in err
