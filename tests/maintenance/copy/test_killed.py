"""A copy that is killed leaves a target without rows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.maintenance.copy import engines
from tests.maintenance.copy.conftest import copy
from tests.support.child import Child

#: Copies, and stops at a point: ``send``, ``compare``, ``commit`` or ``end``.
PROGRAM = """
import signal, sys, time
from nextcloud_mcp_server.maintenance.copy import engines, run, values
from tests.maintenance.copy.conftest import copy

source, target, point, seconds = sys.argv[1:]
engines.BATCH = 5
signal.signal(signal.SIGINT, signal.default_int_handler)

def stop(*_, **__):
    print("ready", flush=True)
    time.sleep(int(seconds))

if point == "send":
    send, convert, calls = run.Copy._send, values.Part.convert, []
    def counting(self, rows, problems):
        calls.append(1)
        if len(calls) == 3:
            stop()
        return convert(self, rows, problems)
    def sending(*arguments):
        values.Part.convert = counting
        send(*arguments)
    run.Copy._send = sending
elif point == "compare":
    run.Copy._compare = stop
elif point == "commit":
    # The creation of the target is recorded, too.
    record = run.journal.record
    run.journal.record = lambda _, action, *rest, **more: (
        stop() if action == "copy" else record(_, action, *rest, **more)
    )
else:
    transact = run.Copy._transact
    run.Copy._transact = lambda *arguments: stop(transact(*arguments))
copy(source, target)
"""


def rows_of(place: str | Path) -> int:
    """Return the number of rows of a copy."""
    with engines.reading(connect(place)) as rows:
        return sum(rows.count(table) or 0 for table in ("refresh_tokens", "audit_logs"))


@pytest.mark.parametrize("point", ["send", "compare", "commit"])
def test_a_killed_copy_leaves_no_row(point: str, source: Path, other: str | Path) -> None:
    """After a kill before the commit the target is empty, and the copy is run again."""
    running = Child(PROGRAM, source, other, point, 600)
    try:
        assert running.answer() == "ready"
    finally:
        running.kill()
    assert rows_of(other) == 0
    done = copy(source, other)
    assert rows_of(other) == done.rows["refresh_tokens"] + done.rows["audit_logs"]


@pytest.mark.parametrize("point", ["send", "compare"])
def test_an_interrupted_copy_leaves_no_row(point: str, source: Path, other: str | Path) -> None:
    """Ctrl-C rolls everything back, and the lock is free for the next copy."""
    # In a loop of asyncio it takes effect at the next statement.
    running = Child(PROGRAM, source, other, point, 2)
    try:
        assert running.answer() == "ready"
        running.process.send_signal(signal.SIGINT)
        running.process.communicate(timeout=60)
    finally:
        running.kill()
    assert rows_of(other) == 0
    assert copy(source, other).rows["app_passwords"] == 3


def test_a_copy_that_is_killed_after_the_commit_is_complete(
    source: Path, other: str | Path
) -> None:
    """The commit is the end: after it every row is there."""
    running = Child(PROGRAM, source, other, "end", 600)
    try:
        assert running.answer() == "ready"
    finally:
        running.kill()
    assert rows_of(other) == 12 + 13
