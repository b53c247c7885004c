"""What long work says while it runs: to a listener, to the log, to those who wait."""

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
from nextcloud_mcp_server.migrate import change
from nextcloud_mcp_server.migrate.startup import prepare
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
def path(tmp_path: Path) -> Path:
    """Where a test's database lies."""
    return tmp_path / "tokens.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners hear every few milliseconds, and a log gets a line every fiftieth second."""
    monkeypatch.setattr(progress, "INTERVAL", 0.005)
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.02)


def threads() -> list[str]:
    """The threads of this module that are alive."""
    return [t.name for t in threading.enumerate() if t.name == "token-store-progress"]


@pytest.mark.usefixtures("quick")
def test_a_listener_hears_the_latest_until_the_work_ends() -> None:
    """It is told again and again, with the time, and never after the end."""
    said: list[Progress] = []
    with reporting(said.append) as say:
        time.sleep(0.03)
        assert said == [], "nothing was said yet"
        say("copying it", 1, 9, "pages")
        time.sleep(0.05)
        say("syncing the copy")
        time.sleep(0.05)
        assert threads() == ["token-store-progress"]
    count = len(said)
    assert {now.phase for now in said} == {"copying it", "syncing the copy"}
    assert [now.seconds for now in said] == sorted(now.seconds for now in said)
    time.sleep(0.02)
    assert (len(said), threads()) == (count, [])


def test_short_work_is_never_heard_of() -> None:
    """Nobody is told of what takes less than half a second."""
    said: list[Progress] = []
    with reporting(said.append) as say:
        say("copying it")
    assert said == []


@pytest.mark.usefixtures("quick")
def test_a_listener_that_fails_stops_nothing() -> None:
    """It is not called again; the others are, and the work goes on."""
    said: list[Progress] = []
    failed: list[Progress] = []

    def fails(now: Progress) -> None:
        failed.append(now)
        raise RuntimeError("no terminal")

    with reporting(fails, said.append) as say:
        say("copying it")
        time.sleep(0.05)
    assert len(failed) == 1
    assert len(said) > 1


@pytest.mark.usefixtures("quick")
def test_the_thread_ends_with_work_that_fails() -> None:
    """An error goes through, and nothing is left behind."""
    with pytest.raises(ValueError, match="x"), reporting():
        raise ValueError("x")
    assert threads() == []


def test_progress_in_words() -> None:
    """The phase, and how far it is where that is known."""
    assert str(Progress("copying it", 3, 9, "pages")) == "copying it (3 of 9 pages)"
    assert str(Progress("syncing the copy")) == "syncing the copy"
    silent("nobody", 1, 2, "hears")


def test_a_log_gets_a_line_every_five_seconds(caplog: pytest.LogCaptureFixture, path: Path) -> None:
    """The first after five seconds of work, and then one in five, however often it is told."""
    listen = to_log(path)
    with caplog.at_level(logging.INFO, "nextcloud_mcp_server"):
        for tenth in range(170):
            listen(Progress("copying it", tenth, 170, "pages", tenth / 10))
    assert [r.getMessage().removeprefix(f"{path}: ") for r in caplog.records] == [
        "copying it (50 of 170 pages), 5 s so far",
        "copying it (100 of 170 pages), 10 s so far",
        "copying it (150 of 170 pages), 15 s so far",
    ]


def test_a_pace_is_kept_from_the_beginning() -> None:
    """A late first word does not make the next one come at once."""
    said: list[float] = []
    listen = paced(lambda now: said.append(now.seconds), 2)
    for seconds in (1.0, 7.0, 8.0, 9.0):
        listen(Progress("x", seconds=seconds))
    assert said == [7.0, 9.0]


def test_those_who_wait_read_each_phase_once() -> None:
    """A new phase is written into the lock, and the same one is not written again."""
    written: list[str] = []
    listen = to_waiters(written.append, "upgrading it")
    for phase in ("copying it", "copying it", "syncing the copy"):
        listen(Progress(phase))
    assert written == ["upgrading it (copying it)", "upgrading it (syncing the copy)"]


def test_a_backup_says_how_many_pages_are_copied(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages count up to all of them; verifying and syncing follow."""
    at("009").write(path, ["page_size=512"])
    monkeypatch.setattr(backup, "_PAGES", 10)
    said: list[tuple[str, int, int, str]] = []

    def say(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        said.append((phase, done, total, unit))

    backup.make_backup(path, backup.backup_path(path, "009"), report=say)
    pages = [(done, total) for phase, done, total, unit in said if unit == "pages"]
    assert len(pages) > 3
    assert pages == sorted(pages)
    assert pages[-1][0] == pages[-1][1] > 0
    phases = list(dict.fromkeys(phase for phase, *_ in said))
    assert phases == ["copying it", "verifying the copy", "syncing the copy"]


@pytest.mark.usefixtures("quick")
def test_an_upgrade_says_which_revision_runs_on_how_many_rows(
    own_scripts: Path, path: Path
) -> None:
    """A slow revision is named while it runs, to the listener and in the lock file."""
    at("009").write(path)
    add_revision(own_scripts, SLOW)
    said: list[str] = []
    waiting: list[str] = []
    lock = path.with_name("tokens.db.lock")

    def listen(now: Progress) -> None:
        said.append(str(now))
        text = lock.read_text()
        if text:
            waiting.append(json.loads(text)["doing"])

    prepare(path, listener=listen)
    slow = [words for words in said if "revision 101" in words]
    assert slow
    assert slow[0].startswith("running revision 101 on ")
    assert slow[0].endswith(" rows (1 of 2 revisions)")
    assert any(
        words.startswith("upgrading it from revision 009 to 101 (running revision 101 on ")
        for words in waiting
    )
    assert lock.read_text() == ""


@pytest.mark.usefixtures("quick")
def test_a_downgrade_says_which_revision_is_undone(own_scripts: Path, path: Path) -> None:
    """The revision that is being undone is named while it runs."""
    at("010").write(path)
    add_revision(own_scripts, SLOW)
    prepare(path)
    said: list[str] = []
    change.downgrade(path, "009", listener=lambda now: said.append(str(now)))
    assert any("revision 101" in words and "(0 of 2 revisions)" in words for words in said)


def _phases(said: list[str]) -> list[str]:
    """Each phase once, in its order, without how far it was."""
    return list(dict.fromkeys(words.partition(" (")[0] for words in said))


@pytest.fixture
def _tells_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word comes to the listener at once, as if each step took long."""

    @contextmanager
    def at_once(*listeners: ProgressCallback) -> Iterator[Reporter]:
        def say(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
            for listener in listeners:
                listener(Progress(phase, done, total, unit))

        yield say

    for module in (repairs, restores):
        monkeypatch.setattr(module, "reporting", at_once)
    monkeypatch.setattr(backup, "_PAGES", 10)


@pytest.mark.usefixtures("_tells_all")
def test_a_restore_says_how_far_it_is(path: Path) -> None:
    """Both copies count their pages, and those who wait for the lock read each phase."""
    at("010").write(path, ["journal_mode=WAL", "page_size=512"])
    saved = path.with_name("saved.db")
    at("009").write(saved, ["page_size=512"])
    said: list[str] = []
    waiting: list[str] = []

    def listen(now: Progress) -> None:
        said.append(str(now))
        waiting.append(json.loads(path.with_name("tokens.db.lock").read_text())["doing"])

    restores.restore(preview_restore(path, saved), progress=listen)
    assert _phases(said) == [
        "copying the backup",
        "copying it",
        "verifying the copy",
        "syncing the copy",
        "checking what is to be restored",
        "putting it in place",
        "checking the result",
    ]
    for phase in ("copying the backup", "putting it in place"):
        counts = [
            tuple(map(int, re.findall(r"\d+", words))) for words in said if f"{phase} (" in words
        ]
        assert len(counts) > 3
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1] > 0
    # The listener is told first, so the lock file is one word behind it.
    assert "restoring it from saved.db (putting it in place)" in waiting
    assert snapshot(path).versions == ["009"]


@pytest.mark.usefixtures("_tells_all")
def test_a_repair_says_how_far_it_is(path: Path) -> None:
    """What is slow in it is told: reading the pages, the backup, the migration."""
    at("006").recording("006", "009").write(path)
    said: list[str] = []
    listen = said.append
    repairs.repair(load_settings(database=path), progress=lambda now: listen(str(now)))
    assert _phases(said)[0] == "checking its pages"
    transition_is_told = {"copying it", "verifying the copy", "checking the result"}
    assert transition_is_told <= {*_phases(said)}


@pytest.mark.usefixtures("_tells_all")
def test_a_repair_of_an_index_says_how_far_it_is(path: Path) -> None:
    """Keeping the file and making the indexes are told as well."""
    index_damaged(path)
    said: list[str] = []
    listen = said.append
    repairs.repair(load_settings(database=path), progress=lambda now: listen(str(now)))
    assert _phases(said)[:3] == [
        "checking its pages",
        "keeping it as it is",
        "rebuilding its indexes",
    ]


@pytest.mark.usefixtures("quick")
def test_without_a_listener_the_log_is_told(
    own_scripts: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server's log has lines while a long migration runs."""
    at("010").write(path)
    add_revision(own_scripts, SLOW)
    with caplog.at_level(logging.INFO, "nextcloud_mcp_server"):
        prepare(path)
    assert any("running revision 101" in r.getMessage() for r in caplog.records)


def test_a_start_at_head_starts_no_thread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nothing to do, nothing is told and nothing is paid."""
    prepare(path)

    def start(_self: threading.Thread) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", start)
    prepare(path)
