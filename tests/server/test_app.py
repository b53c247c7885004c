"""The application: its health checks and its JSON errors."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import CODES
from nextcloud_mcp_server.server import health as module
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.health import HasPrimary, Health, HealthCheck, check_database
from tests.cli.places import execute
from tests.support.by_path import downgrade
from tests.support.contents import KEY
from tests.support.revisions import BEFORE


def _not_ready(client: TestClient) -> Any:
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    body = answer.json()
    assert body["status"] == "unavailable"
    assert body["reason"]
    return body


def test_ready_returns_revision_head_and_state(client: TestClient, head: str) -> None:
    """An open store on a database at head is ready."""
    answer = client.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "revision": head,
        "head": head,
        "state": "at-head",
        "wal_bytes": 0,
    }
    assert answer.headers["cache-control"] == "no-store"


def test_live_does_not_use_the_database(client: TestClient, database: Path) -> None:
    """The process is alive without its database."""
    database.unlink()

    assert client.get("/health/live").json() == {"status": "live"}


def test_head_is_answered_like_get(client: TestClient) -> None:
    """HEAD gives the same status without a body."""
    for path in ("/health/live", "/health/ready"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_other_routes_and_methods_are_refused_in_json(client: TestClient) -> None:
    """An unknown route is a 404 and a wrong method a 405, both in JSON."""
    unknown, wrong = client.get("/nowhere"), client.post("/health/live")

    assert (unknown.status_code, unknown.json()) == (404, {"error": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"error": "Method Not Allowed"})
    assert "GET" in wrong.headers["allow"]


def test_not_ready_before_it_is_open_and_after(database: Path) -> None:
    """Without an open store the result is 503 with a reason; a restart makes it ready again."""
    app = create_app(database, encryption_key=KEY)
    client = TestClient(app)
    assert _not_ready(client)["reason"] == "The token store is not open."
    with client:
        assert client.get("/health/ready").status_code == 200
    assert _not_ready(client)["reason"] == "The token store is not open."
    with client:
        assert client.get("/health/ready").status_code == 200


def _damage(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(b"\xff" * 8192)


def _replace(database: Path) -> None:
    copy = database.with_name("copy.db")
    shutil.copy(database, copy)
    copy.rename(database)


def _step_back(database: Path) -> None:
    downgrade(database, while_running=True)


def _record_another(database: Path) -> None:
    execute(database, "UPDATE alembic_version SET version_num = 'elsewhere'")


#: What is done to the database; the state and the revision in the response, and the end of the log.
HARMS: dict[Callable[[Path], None], tuple[str | None, str | None, str]] = {
    Path.unlink: (None, None, " [replaced]"),
    _damage: ("not-a-database", None, " [not-a-database]"),
    _replace: (None, None, " [replaced]"),
    _step_back: ("behind", BEFORE, "."),
    _record_another: ("unknown-revision", "elsewhere", " [unknown-revision]"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_not_ready_when_the_database_is_no_longer_what_it_was(
    client: TestClient,
    database: Path,
    harm: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A missing, damaged, replaced or downgraded file is detected while serving.

    The response has the current state, and a reason without a path. The log has the path, once.
    """
    state, revision, end = HARMS[harm]
    assert client.get("/health/ready").status_code == 200
    harm(database)

    assert str(database) not in _not_ready(client)["reason"]
    body = _not_ready(client)
    assert (body["state"], body["revision"]) == (state, revision)
    logged = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert len(logged) == 1
    assert str(database) in logged[0]
    assert logged[0].endswith(end)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_not_ready_when_a_companion_is_gone(
    suffix: str, client: TestClient, database: Path
) -> None:
    """A -wal or -shm that was deleted under the open store makes the server not ready."""
    storage: RefreshTokenStorage = client.app_state["storage"]
    assert client.portal is not None
    client.portal.call(storage.store_refresh_token, "alice", "token")
    assert client.get("/health/ready").status_code == 200
    database.with_name(database.name + suffix).unlink()

    assert _not_ready(client)["reason"] == CODES["replaced"]


def test_a_check_that_fails_returns_the_error(tmp_path: Path) -> None:
    """If the inspection itself fails, the reason is its error and the log has its code."""
    result = check_database(connect(tmp_path), lambda: None)
    assert "Give the path of a regular file" in result.detail
    assert result.reason == CODES["bad-path"]
    assert result.detail.endswith("[bad-path]")


def test_ready_again_when_the_database_is_back(client: TestClient, database: Path) -> None:
    """After the file is put back, the server is ready again."""
    away = database.with_name("away.db")
    database.rename(away)
    _not_ready(client)
    away.rename(database)

    assert client.get("/health/ready").status_code == 200


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Slow checks, with the time at which each ended."""
    times: list[float] = []

    def slow(
        database: Database, still_open: Callable[[], object], has_primary: HasPrimary
    ) -> Health:
        time.sleep(0.05)
        result = check_database(database, still_open, has_primary)
        times.append(time.monotonic())
        return result

    monkeypatch.setattr(module, "check_database", slow)
    return times


async def test_many_requests_share_one_check(database: Path, checks: list[float]) -> None:
    """Concurrent requests share one check, and later ones its result during the interval."""
    health = HealthCheck(connect(database), interval=0.2)
    results = await asyncio.gather(*(health.check() for _ in range(50)))
    await health.check()
    assert len(checks) == 1
    assert {result.reason for result in results} == {""}

    await asyncio.sleep(0.25)
    await health.check()
    assert len(checks) == 2
    await health.close()


async def test_a_disk_that_hangs_does_not_block_the_response(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a check takes too long the response is "not ready", and closing waits for the check."""
    goes_on, ended = threading.Event(), threading.Event()

    def hanging(*_: object) -> Health:
        goes_on.wait(30)
        ended.set()
        return Health()

    monkeypatch.setattr(module, "check_database", hanging)
    health = HealthCheck(connect(database), interval=60, patience=0.01)
    assert "0.01 seconds" in (await health.check()).reason

    asyncio.get_running_loop().call_later(0.05, goes_on.set)
    await health.close()
    assert ended.is_set()
    assert (await health.check()).reason == "The token store is not open."


async def test_a_cancelled_request_does_not_cancel_the_check(
    database: Path, checks: list[float]
) -> None:
    """A client that disconnects does not cancel the check that others wait for."""
    health = HealthCheck(connect(database))
    requests = [asyncio.create_task(health.check()) for _ in range(2)]
    await asyncio.sleep(0.01)
    requests[0].cancel()
    with suppress(asyncio.CancelledError):
        await requests[0]

    assert (await requests[1]).reason == ""
    assert len(checks) == 1


def test_a_check_changes_nothing(database: Path) -> None:
    """A check leaves the bytes and the time of the file as they are."""
    before = (database.read_bytes(), database.stat().st_mtime_ns)
    assert check_database(connect(database), lambda: None).reason == ""

    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
