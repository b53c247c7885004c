"""Who holds what a migration needs: a stopped process, and a reader that does nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from nextcloud_mcp_server.backends.base import Transaction
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql import locked
from nextcloud_mcp_server.migrate.startup import prepare
from tests.support.child import ROOT
from tests.support.errors import refuses
from tests.support.postgresql import Server

_HOLD = """
import sys, time
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql import locked
locked._IDLE_TIMEOUT = 2
with connect(sys.argv[1]).lock(5) as held:
    held.announce("upgrading")
    held.transact(lambda t: (t.execute("CREATE TABLE half (id int)"), print("held", flush=True),
                             time.sleep(60)))
"""


@pytest.fixture
def place(postgresql_server: Server) -> tuple[str, str]:
    """A new schema: its name and its URL."""
    return postgresql_server.schema()


@pytest.fixture
def holder(place: tuple[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a migration."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, place[1]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_stopped_holder_loses_the_lock(
    place: tuple[str, str],
    holder: subprocess.Popen[str],
    postgresql_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server ends its transaction, and the next start goes on; its log names who held it."""
    monkeypatch.setattr(locked, "_TELL_INTERVAL", 0.3)
    os.kill(holder.pid, signal.SIGSTOP)
    begun = time.monotonic()
    assert prepare(connect(place[1]), lock_timeout=30).action == "create"
    assert time.monotonic() - begun < 15
    assert f"{holder.pid}@{socket.gethostname()[:24]}: upgrading" in caplog.text
    left = postgresql_server.execute(f"SELECT to_regclass('{place[0]}.half')")
    assert left == [(None,)]


def _alter(transaction: Transaction) -> None:
    transaction.execute("ALTER TABLE audit_logs ADD COLUMN added INTEGER")


@pytest.fixture
def reader(place: tuple[str, str]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A reader that has ended its statement, and not its transaction."""
    prepare(connect(place[1]))
    with psycopg.connect(place[1]) as connection:
        connection.execute("SELECT count(*) FROM audit_logs")
        yield connection


def test_a_migration_waits_for_an_idle_reader_and_blocks_no_other_for_long(
    place: tuple[str, str],
    reader: psycopg.Connection[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It gives up the wait for the lock, tries again, and succeeds when the reader is gone."""
    monkeypatch.setattr(locked, "_LOCK_TIMEOUT", 1)
    threading.Timer(3, reader.rollback).start()
    ends, waits = threading.Event(), [0.0]

    def read() -> None:
        with psycopg.connect(place[1], autocommit=True) as connection:
            while not ends.is_set():
                begun = time.monotonic()
                connection.execute("SELECT count(*) FROM audit_logs")
                waits.append(time.monotonic() - begun)
                time.sleep(0.01)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with connect(place[1]).lock(20) as held:
            held.transact(_alter)
    finally:
        ends.set()
        thread.join()
    assert "another transaction holds a lock; trying again" in caplog.text
    assert 0.5 < max(waits) < 2
    assert sum(wait > 0.5 for wait in waits) >= 2


def test_an_idle_reader_that_stays_is_named_as_such(
    place: tuple[str, str],
    reader: psycopg.Connection[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the deadline it is ``lock-timeout``, and nothing was changed."""
    assert reader.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    monkeypatch.setattr(locked, "_LOCK_TIMEOUT", 1)
    database = connect(place[1])
    with refuses("lock-timeout"), database.lock(1) as held:
        held.transact(_alter)
    assert "added" not in database.inspect().structure.tables["audit_logs"].columns
