"""The application: what it says of its health, and to whom it says nothing."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.errors import CODES
from nextcloud_mcp_server.migrate.change import downgrade
from nextcloud_mcp_server.server import health as module
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.health import Readiness, Verdict, identity, look_at
from tests.server.helpers import KEY


@pytest.fixture
def client(database: Path) -> Iterator[TestClient]:
    """The application on a database at head, looking at it on every hit."""
    app = create_app(database, encryption_key=KEY, check_interval=0)
    with TestClient(app) as client:
        yield client


def _not_ready(client: TestClient) -> Any:
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    body = answer.json()
    assert body["status"] == "unavailable"
    assert body["reason"]
    return body


def test_ready_tells_revision_head_and_state(client: TestClient, head: str) -> None:
    """An open store on a database at head is ready, and says where it stands."""
    answer = client.get("/health/ready")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "revision": head,
        "head": head,
        "state": "at-head",
    }
    assert answer.headers["cache-control"] == "no-store"


def test_live_asks_nothing_of_the_database(client: TestClient, database: Path) -> None:
    """The process is alive whatever becomes of its database."""
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
    """Without an open store the answer is 503 with a reason; a restart makes it ready again."""
    app = create_app(database, encryption_key=KEY)
    client = TestClient(app)
    assert _not_ready(client)["reason"] == "The token store is not open."
    with client:
        assert client.get("/health/ready").status_code == 200
    assert _not_ready(client)["reason"] == "The token store is not open."
    with client:
        assert client.get("/health/ready").status_code == 200


def _remove(database: Path) -> None:
    database.unlink()


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
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'elsewhere'")


#: How the log's line ends for what has a code.
TOLD_WITH: dict[Callable[[Path], None], str] = {
    _damage: " [not-a-database]",
    _record_another: " [unknown-revision]",
}


@pytest.mark.parametrize("harm", [_remove, _damage, _replace, _step_back, _record_another])
def test_not_ready_when_the_database_is_no_longer_what_it_was(
    client: TestClient,
    database: Path,
    harm: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file that is gone, damaged, replaced or at another revision is noticed while serving.

    The answer gives a reason and no path, the log the path, and only once.
    """
    assert client.get("/health/ready").status_code == 200
    harm(database)

    assert str(database) not in _not_ready(client)["reason"]
    assert _not_ready(client)["state"] != "at-head"
    told = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert len(told) == 1
    assert str(database) in told[0]
    assert told[0].endswith(TOLD_WITH.get(harm, "."))


def test_what_cannot_be_looked_at_is_told_with_its_code(tmp_path: Path) -> None:
    """Where the look itself is refused, its error is the answer, and the log has its code."""
    verdict = look_at(tmp_path, identity(tmp_path))
    assert verdict.reason == CODES["bad-path"]
    assert verdict.detail.endswith("[bad-path]")


def test_ready_again_when_the_database_is_back(client: TestClient, database: Path) -> None:
    """A trouble that passes, passes here too."""
    away = database.with_name("away.db")
    database.rename(away)
    _not_ready(client)
    away.rename(database)

    assert client.get("/health/ready").status_code == 200


def test_a_refused_database_gives_its_state(client: TestClient, database: Path) -> None:
    """The state in the answer is the one that the database is in now."""
    _record_another(database)

    body = _not_ready(client)
    assert (body["state"], body["revision"]) == ("unknown-revision", "elsewhere")


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a look at the database ended."""
    times: list[float] = []

    def counted(database: Path, opened: tuple[int, int] | None) -> Verdict:
        time.sleep(0.05)
        verdict = look_at(database, opened)
        times.append(time.monotonic())
        return verdict

    monkeypatch.setattr(module, "look_at", counted)
    return times


async def test_many_hits_are_one_look(database: Path, looks: list[float]) -> None:
    """Hits at once share one look, and later ones its answer until the interval is over."""
    readiness = Readiness(database, interval=0.2)
    verdicts = await asyncio.gather(*(readiness.verdict() for _ in range(50)))
    await readiness.verdict()
    assert len(looks) == 1
    assert {verdict.reason for verdict in verdicts} == {""}

    await asyncio.sleep(0.25)
    await readiness.verdict()
    assert len(looks) == 2
    await readiness.close()


async def test_a_disk_that_hangs_does_not_hang_the_answer(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that takes too long is answered with "not ready", and closing waits for it."""
    goes_on, ended = threading.Event(), threading.Event()

    def hanging(*_: object) -> Verdict:
        goes_on.wait(30)
        ended.set()
        return Verdict()

    monkeypatch.setattr(module, "look_at", hanging)
    readiness = Readiness(database, interval=60, patience=0.01)
    assert "0.01 seconds" in (await readiness.verdict()).reason

    asyncio.get_running_loop().call_later(0.05, goes_on.set)
    await readiness.close()
    assert ended.is_set()
    assert (await readiness.verdict()).reason == "The token store is not open."


async def test_a_hit_that_is_cancelled_leaves_the_look_to_others(
    database: Path, looks: list[float]
) -> None:
    """A client that leaves does not cancel the look that others wait for."""
    readiness = Readiness(database)
    hits = [asyncio.create_task(readiness.verdict()) for _ in range(2)]
    await asyncio.sleep(0.01)
    hits[0].cancel()
    with suppress(asyncio.CancelledError):
        await hits[0]

    assert (await hits[1]).reason == ""
    assert len(looks) == 1


def test_a_look_changes_nothing(database: Path) -> None:
    """Looking leaves the bytes and the time of the file as they are."""
    before = (database.read_bytes(), database.stat().st_mtime_ns)
    assert look_at(database, identity(database)).reason == ""

    assert (database.read_bytes(), database.stat().st_mtime_ns) == before
