"""The server as a program: what it prints, how it fails, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from nextcloud_mcp_server import found, startup
from nextcloud_mcp_server import serve as module
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.guard import guard
from nextcloud_mcp_server.serve import serve
from nextcloud_mcp_server.settings import Settings
from tests.server.helpers import (
    KEY,
    SLOW_ROUTE,
    SLOWLY,
    Server,
    is_locked,
    needs_ipv6,
    revision,
    wait_for,
    wait_until_at_work,
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Give every logger back its level, and every signal its handler."""
    signals = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in signals]
    names = ("nextcloud_mcp_server", "uvicorn.access", "uvicorn.error", "uvicorn.asgi")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
    for number, handler in zip(signals, handlers, strict=True):
        signal.signal(number, handler)


def _leftovers(database: Path) -> set[str]:
    beside = {path.name for path in database.parent.iterdir() if path.name.startswith("tokens.db")}
    return {name for name in beside if name.endswith(("-wal", "-shm", "-journal", ".partial"))}


def test_serves_on_a_new_database_and_stops_cleanly(new_database: Path, head: str) -> None:
    """On a fresh machine: says what it made and where it listens, serves, exits 0, no WAL."""
    new_database.parent.mkdir()
    with Server(new_database) as server:
        url = server.url()
        ready = httpx.get(f"{url}/health/ready")
        assert (ready.status_code, ready.json()["revision"]) == (200, head)
        assert httpx.head(f"{url}/health/live").status_code == 200
        status, errors = server.stop()

    assert status == 0
    assert f"database: {new_database}" in server.said
    [created] = [line for line in server.said if line.startswith("created ")]
    assert re.search(rf"at revision {head} in \d+\.\d\d s$", created)
    assert server.said[-1] == "stopped"
    assert "Traceback" not in errors
    assert "HTTP/1.1" not in errors
    assert _leftovers(new_database) == set()


def test_says_what_it_upgraded_and_where_the_backup_lies(
    old_database: Path, tmp_path: Path, head: str
) -> None:
    """An old database with rows: from what to what, and the backup; Ctrl-C stops it too."""
    with closing(sqlite3.connect(old_database)) as connection, connection:
        connection.execute("INSERT INTO audit_logs VALUES (1, 0, 'event', 'alice', '', '', '', '')")
    with Server(old_database) as server:
        server.url()
        status, errors = server.stop(signal.SIGINT)

    assert status == 0, errors
    assert any(
        line.startswith(f"upgraded {old_database} from 006 to {head}") for line in server.said
    )
    [backup] = tmp_path.glob("old.db.backup-*-006")
    assert f"backup: {backup}" in server.said


def _fails(
    capfd: pytest.CaptureFixture[str], settings: Settings, *, port: int = 0, debug: bool = False
) -> tuple[str, str]:
    """Serve, see it fail, and give the line of the error and that of the remedy."""
    assert serve(port=port, settings=settings, debug=debug) == 1
    errors = capfd.readouterr().err
    if not debug:
        assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    [error] = [line for line in lines if "error: " in line]
    [remedy] = [line for line in lines if line.startswith("remedy: ")]
    if not debug:
        assert lines == [error, remedy]
    return error, remedy


def test_a_refused_database_is_one_line_and_a_remedy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A start that the store refuses prints its error and its remedy and nothing else."""
    bad = tmp_path / "tokens.db"
    bad.write_text("no database\n" * 100)
    error, _ = _fails(capfd, Settings(bad, keys=(KEY,)))

    assert error.startswith(f"error: {bad} is not an SQLite database")
    assert error.endswith(" [not-a-database]")


def test_with_debug_the_traceback_comes_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends in the code, and the remedy stands once, in the last line."""
    bad = tmp_path / "tokens.db"
    bad.write_text("no database\n" * 100)
    assert serve(port=0, settings=Settings(bad, keys=(KEY,)), debug=True) == 1

    errors = capfd.readouterr().err
    told, _, said = errors.partition("\n[not-a-database]\n")
    assert "Traceback (most recent call last):\n" in told
    assert [line.partition(":")[0] for line in said.splitlines()] == ["error", "remedy"]
    assert errors.count("remedy: ") == 1


def test_an_unexpected_error_is_one_line_too(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the program itself: its type in one line, the traceback only with debug."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(found, "classify", fault)
    error, _ = _fails(capfd, Settings(database, keys=(KEY,)))
    assert error.startswith("unexpected error: ZeroDivisionError: first line")

    assert serve(port=0, settings=Settings(database, keys=(KEY,)), debug=True) == 1
    assert "Traceback" in capfd.readouterr().err


def test_settings_that_cannot_be_used_are_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the environment is told like any other error."""
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "soon")

    assert serve(port=0) == 1
    assert capfd.readouterr().err.startswith("error: TOKEN_STORAGE_LOCK_TIMEOUT is 'soon'")


def test_a_taken_port_is_found_before_anything_is_migrated(
    old_database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where another program listens the start fails, and the database is as it was."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        error, _ = _fails(capfd, Settings(old_database, keys=(KEY,)), port=port)

    assert f"127.0.0.1:{port}" in error
    assert revision(old_database) == "006"


def test_a_port_lost_during_the_start_closes_the_store(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers may bind one port, and one of them listens first: the other says so."""
    with ExitStack() as closing_late:
        create_server = asyncio.SelectorEventLoop.create_server

        async def outrun(
            loop: asyncio.SelectorEventLoop, *args: object, **others: object
        ) -> object:
            sock = others["sock"]
            assert isinstance(sock, socket.socket)
            rival = closing_late.enter_context(closing(socket.socket()))
            rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            rival.bind(sock.getsockname())
            rival.listen()
            return await create_server(loop, *args, **others)  # type: ignore[call-overload]

        monkeypatch.setattr(asyncio.SelectorEventLoop, "create_server", outrun)
        error, _ = _fails(capfd, Settings(database, keys=(KEY,)))

    assert "cannot listen" in error
    assert _leftovers(database) == set()


def test_a_failing_stop_is_told(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that cannot be closed makes the exit status 1, in one line."""
    close = RefreshTokenStorage.close

    async def failing(storage: RefreshTokenStorage) -> None:
        await close(storage)
        raise OSError("the disk is gone")

    monkeypatch.setattr(RefreshTokenStorage, "close", failing)
    monkeypatch.setattr("uvicorn.Server.main_loop", _stop_at_once)
    error, _ = _fails(capfd, Settings(database, keys=(KEY,)))

    assert error == "unexpected error: OSError: the disk is gone"


async def _stop_at_once(_server: object) -> None:
    pass


@pytest.mark.parametrize(
    ("host", "shown"),
    [pytest.param("::1", "[::1]", marks=needs_ipv6), ("127.0.0.1", "127.0.0.1")],
)
def test_says_where_it_listens_and_what_it_uses_instead(
    host: str,
    shown: str,
    database: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real port, IPv6 in brackets; and both paths where the usual place cannot be used."""
    monkeypatch.setattr("uvicorn.Server.main_loop", _stop_at_once)
    settings = Settings(database, keys=(KEY,), fallback_from=Path("/app/data/tokens.db"))
    assert serve(host, 0, settings=settings) == 0

    out, err = capfd.readouterr()
    assert re.search(rf"^listening on http://{re.escape(shown)}:[1-9]\d*$", out, re.MULTILINE)
    [warning] = err.splitlines()
    assert warning.startswith("warning: /app/data/tokens.db")
    assert str(database) in warning


def test_a_handler_is_left_as_it_was(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that no signal stopped gives the signals back to whoever had them."""
    monkeypatch.setattr("uvicorn.Server.main_loop", _stop_at_once)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    serve(port=0, settings=Settings(database, keys=(KEY,)))

    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_ends_the_wait_for_the_lock(old_database: Path) -> None:
    """While another process holds the lock, SIGTERM stops the start at once, unchanged."""
    with guard(old_database, 0), Server(old_database) as server:
        wait_until_at_work(server)
        status, errors = server.stop()

    assert status == 1
    assert errors.splitlines()[-2].startswith("error: The start was asked to stop")
    assert errors.splitlines()[-1].startswith("remedy: ")
    assert "Traceback" not in errors
    assert revision(old_database) == "006"


def test_a_signal_lets_a_migration_finish(old_database: Path, head: str) -> None:
    """SIGTERM, even twice, during a migration: it is finished under the lock, nothing served."""
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
    assert not any(line.startswith("listening") for line in server.said)
    assert f"is at revision {head}" in errors
    assert "Traceback" not in errors
    assert revision(old_database) == head


def test_a_hail_of_signals_is_one_stop(database: Path) -> None:
    """Signals without end, until the process has ended: status 0, no word, no WAL."""
    with Server(database) as server:
        server.url()
        while server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.0005)
        status, errors = server.end()

    assert (status, errors) == (0, "")
    assert server.said[-1] == "stopped"
    assert _leftovers(database) == set()


def test_a_stop_lets_a_request_finish(database: Path) -> None:
    """A request that is under way at SIGTERM is answered, and by an open store."""
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
    """Asked to stop before the store was touched, it is not touched."""
    before = getattr(module, moment)

    def interrupted(*arguments: object, **others: object) -> object:
        signal.raise_signal(signal.SIGTERM)
        return before(*arguments, **others)

    monkeypatch.setattr(module, moment, interrupted)
    error, _ = _fails(capfd, Settings(old_database, keys=(KEY,)))

    assert "asked to stop" in error
    assert revision(old_database) == "006"


def test_a_signal_between_opening_and_listening_serves_nobody(
    old_database: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    head: str,
) -> None:
    """What was upgraded is told, and that nothing was served."""
    create_server = asyncio.SelectorEventLoop.create_server

    async def late(loop: asyncio.SelectorEventLoop, *args: object, **others: object) -> object:
        signal.raise_signal(signal.SIGINT)
        return await create_server(loop, *args, **others)  # type: ignore[call-overload]

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_server", late)
    assert serve(port=0, settings=Settings(old_database, keys=(KEY,))) == 1

    out, err = capfd.readouterr()
    assert f"upgraded {old_database} from 006 to {head}" in out
    assert "listening" not in out
    assert "asked to stop" in err


def test_a_signal_at_any_moment_leaves_a_database_that_starts(
    old_database: Path, tmp_path: Path, head: str
) -> None:
    """SIGTERM at ten moments of a start: an old database or one at head, never between."""

    def start(name: str) -> Server:
        (tmp_path / name).mkdir()
        return Server(Path(shutil.copy(old_database, tmp_path / name / "tokens.db")))

    begun = time.monotonic()
    with start("undisturbed") as server:
        server.url()
        usual = time.monotonic() - begun
    for tenth in range(1, 11):
        with start(str(tenth)) as server:
            time.sleep(usual * tenth / 10)
            status, errors = server.stop()
        # Before the first line of ours runs, the system's own answer to SIGTERM holds.
        assert status in {0, 1, -signal.SIGTERM}
        assert "Traceback" not in errors
        assert revision(server.database) in {"006", head}
        assert startup.prepare(server.database).after == head
