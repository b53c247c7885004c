"""The server process: its output and its errors."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import socket
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.migrate import inspect
from nextcloud_mcp_server.server.run import serve
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.server.helpers import Server, fails, leftovers, needs_ipv6, revision, stop_at_once
from tests.support.contents import KEY

pytestmark = pytest.mark.usefixtures("as_before")


def test_serves_on_a_new_database_and_stops_cleanly(new_database: Path, head: str) -> None:
    """It prints the new database and its address, serves, and leaves no WAL."""
    new_database.parent.mkdir()
    with Server(new_database) as server:
        url = server.url()
        ready = httpx.get(f"{url}/health/ready")
        assert (ready.status_code, ready.json()["revision"]) == (200, head)
        assert httpx.head(f"{url}/health/live").status_code == 200
        status, errors = server.stop()

    assert status == 0
    assert f"database: {new_database}" in server.output
    _, created, listening, _ = server.output
    assert created.startswith("created ")
    assert listening.startswith("listening on ")
    assert re.search(rf"at revision {head} in \d+\.\d\d s$", created)
    assert server.output[-1] == "stopped"
    assert "Traceback" not in errors
    assert "HTTP/1.1" not in errors
    assert leftovers(new_database) == set()


def test_prints_the_upgrade_and_the_backup(old_database: Path, tmp_path: Path, head: str) -> None:
    """For an old database with rows it prints the revisions and the backup; Ctrl-C stops it too."""
    execute(old_database, "INSERT INTO audit_logs VALUES (1, 0, 'event', 'alice', '', '', '', '')")
    with Server(old_database) as server:
        server.url()
        status, errors = server.stop(signal.SIGINT)

    assert status == 0, errors
    assert any(
        line.startswith(f"upgraded {old_database} from 006 to {head}") for line in server.output
    )
    [backup] = tmp_path.glob("old.db.backup-*-006")
    assert f"backup: {backup}" in server.output


def test_a_refused_database_is_one_line_and_a_remedy(
    bad: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A failed start prints its error and its remedy and nothing else."""
    error = fails(capfd, Settings(bad, keys=(KEY,)))

    assert error.startswith(f"error: {bad} is not an SQLite database")
    assert error.endswith(" [not-a-database]")


def test_with_debug_the_traceback_comes_first(bad: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The traceback ends with the code, and the remedy is printed once, in the last line."""
    assert serve(port=0, settings=Settings(bad, keys=(KEY,)), debug=True) == 1

    errors = capfd.readouterr().err
    before, _, after = errors.partition("\n[not-a-database]\n")
    assert "Traceback (most recent call last):\n" in before
    assert [line.partition(":")[0] for line in after.splitlines()] == ["error", "remedy"]
    assert errors.count("remedy: ") == 1


def test_an_unexpected_error_is_one_line_too(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the program is one line with its type, without a traceback."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(inspect, "classify", fault)
    error = fails(capfd, Settings(database, keys=(KEY,)))
    assert error.startswith("unexpected error: ZeroDivisionError: first line")


def test_settings_that_cannot_be_used_are_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid environment is an error like any other."""
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "soon")

    assert serve(port=0) == 1
    assert capfd.readouterr().err.startswith("error: TOKEN_STORAGE_LOCK_TIMEOUT is 'soon'")


def test_a_taken_port_is_found_before_anything_is_migrated(
    old_database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """If another program listens there the start fails, and the database is unchanged."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        error = fails(capfd, Settings(old_database, keys=(KEY,)), port=port)

    assert f"127.0.0.1:{port}" in error
    assert revision(old_database) == "006"


def test_a_system_that_lets_nobody_listen_closes_the_store(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If uvicorn cannot listen after the migration, the start fails and the store is closed."""
    create_server = asyncio.SelectorEventLoop.create_server
    calls: list[object] = []

    async def second(loop: asyncio.SelectorEventLoop, *args: object, **others: object) -> object:
        calls.append(loop)
        if len(calls) > 1:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return await create_server(loop, *args, **others)  # type: ignore[call-overload]

    monkeypatch.setattr(asyncio.SelectorEventLoop, "create_server", second)
    assert "cannot listen" in fails(capfd, Settings(database, keys=(KEY,)))
    assert leftovers(database) == set()


def test_a_port_lost_during_the_start_migrates_nothing(
    old_database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another server listens on the port first, the start fails before it changes anything."""
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
        error = fails(capfd, Settings(old_database, keys=(KEY,)))

    assert "cannot listen" in error
    assert revision(old_database) == "006"


def test_a_failing_stop_is_an_error(
    database: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the store cannot be closed, the exit status is 1 and the error one line."""
    close = RefreshTokenStorage.close

    async def failing(storage: RefreshTokenStorage) -> None:
        await close(storage)
        raise OSError("the disk is gone")

    monkeypatch.setattr(RefreshTokenStorage, "close", failing)
    monkeypatch.setattr("uvicorn.Server.main_loop", stop_at_once)
    error = fails(capfd, Settings(database, keys=(KEY,)))

    assert error == "unexpected error: OSError: the disk is gone"


@pytest.mark.parametrize(
    ("host", "shown"), [pytest.param("::1", "[::1]", marks=needs_ipv6), ("127.0.0.1", "127.0.0.1")]
)
def test_prints_its_address_and_the_fallback(
    host: str,
    shown: str,
    database: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It prints the real port, IPv6 in brackets, and both paths if the default cannot be used."""
    monkeypatch.setattr("uvicorn.Server.main_loop", stop_at_once)
    settings = Settings(database, keys=(KEY,), fallback_from=Path("/app/data/tokens.db"))
    assert serve(host, 0, settings=settings) == 0

    out, err = capfd.readouterr()
    assert re.search(rf"^listening on http://{re.escape(shown)}:[1-9]\d*$", out, re.MULTILINE)
    [warning] = err.splitlines()
    assert re.match(r"\S+Z warning: /app/data/tokens.db cannot be used", warning)
    assert str(database) in warning
