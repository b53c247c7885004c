"""Progress reports: to callbacks, to the log, to processes that wait for the lock."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nextcloud_mcp_server import progress
from nextcloud_mcp_server.backends.sqlite import backup
from nextcloud_mcp_server.maintenance import repair as repairs
from nextcloud_mcp_server.maintenance import restore as restores
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.progress import (
    Progress,
    ProgressCallback,
    Reporter,
    paced,
    reporting,
    silent,
    to_log,
    to_waiters,
)
from nextcloud_mcp_server.settings import load_settings
from tests.faults.scenarios import index_damaged
from tests.support.by_path import downgrade, prepare
from tests.support.scripts import add_revision
from tests.support.shapes import at
from tests.support.snapshot import snapshot

SLOW = """
import time

def upgrade():
    time.sleep(0.3)

def downgrade():
    time.sleep(0.3)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call callbacks every 5 ms, and log a line every 20 ms."""
    monkeypatch.setattr(progress, "INTERVAL", 0.005)
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.02)


def threads() -> list[str]:
    """Return the threads of the module that are alive."""
    return [t.name for t in threading.enumerate() if t.name == "token-store-progress"]


@pytest.mark.usefixtures("quick")
def test_a_callback_gets_the_latest_report_until_the_work_ends() -> None:
    """It is called repeatedly, with the time, and not after the end."""
    received: list[Progress] = []
    with reporting(received.append) as report:
        time.sleep(0.03)
        assert received == [], "nothing was reported yet"
        report("copying it", 1, 9, "pages")
        time.sleep(0.05)
        report("syncing the copy")
        time.sleep(0.05)
        assert threads() == ["token-store-progress"]
    count = len(received)
    assert {now.phase for now in received} == {"copying it", "syncing the copy"}
    assert [now.seconds for now in received] == sorted(now.seconds for now in received)
    time.sleep(0.02)
    assert (len(received), threads()) == (count, [])


def test_short_work_calls_no_callback() -> None:
    """For work that takes less than half a second no callback is called."""
    received: list[Progress] = []
    with reporting(received.append) as report:
        report("copying it")
    assert received == []


@pytest.mark.usefixtures("quick")
def test_a_callback_that_fails_does_not_stop_the_work() -> None:
    """It is not called again, but the others are."""
    received: list[Progress] = []
    failed: list[Progress] = []

    def fails(now: Progress) -> None:
        failed.append(now)
        raise RuntimeError("no terminal")

    with reporting(fails, received.append) as report:
        report("copying it")
        time.sleep(0.05)
    assert len(failed) == 1
    assert len(received) > 1


@pytest.mark.usefixtures("quick")
def test_the_thread_ends_with_work_that_fails() -> None:
    """The error is raised, and no thread is left."""
    with pytest.raises(ValueError, match="x"), reporting():
        raise ValueError("x")
    assert threads() == []


def test_progress_as_text() -> None:
    """The text is the phase, with the numbers if they are known."""
    assert str(Progress("copying it", 3, 9, "pages")) == "copying it (3 of 9 pages)"
    assert str(Progress("syncing the copy")) == "syncing the copy"
    silent("copying it", 1, 2, "pages")


def test_a_log_gets_a_line_every_five_seconds(caplog: pytest.LogCaptureFixture, path: Path) -> None:
    """The first line comes after five seconds, and then one every five seconds."""
    log = to_log(path)
    with caplog.at_level(logging.INFO, "nextcloud_mcp_server"):
        for tenth in range(170):
            log(Progress("copying it", tenth, 170, "pages", tenth / 10))
    assert [r.getMessage().removeprefix(f"{path}: ") for r in caplog.records] == [
        "copying it (50 of 170 pages), 5 s so far",
        "copying it (100 of 170 pages), 10 s so far",
        "copying it (150 of 170 pages), 15 s so far",
    ]


def test_the_interval_is_counted_from_the_last_call() -> None:
    """After a late first call the next one is not immediate."""
    calls: list[float] = []
    callback = paced(lambda now: calls.append(now.seconds), 2)
    for seconds in (1.0, 7.0, 8.0, 9.0):
        callback(Progress("x", seconds=seconds))
    assert calls == [7.0, 9.0]


def test_each_phase_is_announced_once() -> None:
    """A new phase is written into the lock file, and the same phase not again."""
    written: list[str] = []
    callback = to_waiters(written.append, "upgrading it")
    for phase in ("copying it", "copying it", "syncing the copy"):
        callback(Progress(phase))
    assert written == ["upgrading it (copying it)", "upgrading it (syncing the copy)"]


@pytest.mark.usefixtures("quick")
def test_an_upgrade_reports_the_revision_and_the_rows(own_scripts: Path, path: Path) -> None:
    """A slow revision is reported to the callback and in the lock file."""
    at("009").write(path)
    add_revision(own_scripts, SLOW)
    texts: list[str] = []
    waiting: list[str] = []
    lock = path.with_name("tokens.db.lock")

    def callback(now: Progress) -> None:
        texts.append(str(now))
        text = lock.read_text()
        if text:
            waiting.append(json.loads(text)["doing"])

    prepare(path, progress=callback)
    slow = [text for text in texts if "revision 101" in text]
    assert slow
    assert slow[0].startswith("running revision 101 on ")
    assert slow[0].endswith(" rows (1 of 2 revisions)")
    assert any(
        text.startswith("upgrading it from revision 009 to 101 (running revision 101 on ")
        for text in waiting
    )
    assert lock.read_text() == ""


@pytest.mark.usefixtures("quick")
def test_a_downgrade_reports_the_revision(own_scripts: Path, path: Path) -> None:
    """The revision that is downgraded is reported."""
    at("010").write(path)
    add_revision(own_scripts, SLOW)
    prepare(path)
    texts: list[str] = []
    downgrade(path, "009", progress=lambda now: texts.append(str(now)))
    assert any("revision 101" in text and "(0 of 2 revisions)" in text for text in texts)


def _phases(texts: list[str]) -> list[str]:
    """Return each phase once, in order, without its numbers."""
    return list(dict.fromkeys(text.partition(" (")[0] for text in texts))


@pytest.fixture
def _every_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass every report to the callbacks at once, as if each step were slow."""

    @contextmanager
    def at_once(*callbacks: ProgressCallback) -> Iterator[Reporter]:
        def report(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
            for callback in callbacks:
                callback(Progress(phase, done, total, unit))

        yield report

    monkeypatch.setattr("nextcloud_mcp_server.progress.reporting", at_once)
    monkeypatch.setattr(backup, "_PAGES", 10)


@pytest.mark.usefixtures("_every_report")
def test_a_restore_reports_its_progress(path: Path) -> None:
    """Every copy counts its pages, and each phase is written into the lock file."""
    at("010").write(path, ["journal_mode=WAL", "page_size=512"])
    saved = path.with_name("saved.db")
    at("009").write(saved, ["page_size=512"])
    texts: list[str] = []
    waiting: list[str] = []

    def callback(now: Progress) -> None:
        texts.append(str(now))
        waiting.append(json.loads(path.with_name("tokens.db.lock").read_text())["doing"])

    restores.restore(preview_restore(path, saved), progress=callback)
    assert _phases(texts) == [
        "copying the backup",
        "copying it",
        "verifying the copy",
        "syncing the copy",
        "checking what is to be restored",
        "putting it in place",
        "checking the result",
    ]
    for phase in ("copying the backup", "copying it", "putting it in place"):
        counts = [
            tuple(map(int, re.findall(r"\d+", text))) for text in texts if f"{phase} (" in text
        ]
        assert len(counts) > 3
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1] > 0
    # The callback is called first, so the lock file is one phase behind.
    assert "restoring it from saved.db (putting it in place)" in waiting
    assert snapshot(path).versions == ["009"]


@pytest.mark.usefixtures("_every_report")
def test_a_repair_reports_its_progress(path: Path) -> None:
    """Checking the pages, the backup and the migration are reported."""
    at("006").recording("006", "009").write(path)
    texts: list[str] = []
    repairs.repair(load_settings(database=path), progress=lambda now: texts.append(str(now)))
    assert _phases(texts)[0] == "checking its pages"
    assert {"copying it", "verifying the copy", "checking the result"} <= {*_phases(texts)}


@pytest.mark.usefixtures("_every_report")
def test_a_repair_of_an_index_reports_its_progress(path: Path) -> None:
    """Keeping the file and building the indexes are reported too."""
    index_damaged(path)
    texts: list[str] = []
    repairs.repair(load_settings(database=path), progress=lambda now: texts.append(str(now)))
    assert _phases(texts)[:3] == [
        "checking its pages",
        "keeping it as it is",
        "rebuilding its indexes",
    ]


@pytest.mark.usefixtures("quick")
def test_without_a_callback_the_progress_is_logged(
    own_scripts: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log of a server has lines while a long migration runs."""
    at("010").write(path)
    add_revision(own_scripts, SLOW)
    with caplog.at_level(logging.INFO, "nextcloud_mcp_server"):
        prepare(path)
    assert any("running revision 101" in r.getMessage() for r in caplog.records)


def test_a_start_at_head_starts_no_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that has nothing to do reports nothing."""
    prepare(path)

    def start(_self: threading.Thread) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", start)
    prepare(path)
