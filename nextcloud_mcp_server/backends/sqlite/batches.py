"""Lanes: units of work in batches, on threads that each use a connection of their own.

Passing one unit to a thread and its answer back costs more than the unit itself. So a free
thread takes every unit that waits, and passes all answers back at once: the busier the store,
the larger the batches, and no unit waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.sqlite.statements import DriverConnection

T = TypeVar("T")

#: The most units in one batch; the first of them waits for the last.
BATCH: Final = 128


class Job(NamedTuple):
    """A unit of work, and the future that receives its answer."""

    unit: Callable[[Connection], Any]
    future: asyncio.Future[Any]


class Answer(NamedTuple):
    """The result of a unit: a value, or the error that it raised."""

    value: Any = None
    error: BaseException | None = None


#: Runs a batch on a connection; returns an answer for each job, in order. Raises if the
#: connection cannot be used.
CarryOut = Callable[[sqlite3.Connection, Sequence[Job]], Sequence[Answer]]


class Lane:
    """Runs units of work in batches. Its threads are started when they are needed.

    Args:
        name: of the threads.
        threads: how many batches may run at once.
        connect: opens a connection, for the first batch of a thread.
        carry_out: runs a batch.
        named: converts an error into the one that the caller receives.
        afterwards: called in the thread with False after each batch, and with True if no unit
            arrives within the seconds that it returned (None: no limit).
    """

    def __init__(
        self,
        name: str,
        threads: int,
        connect: Callable[[], sqlite3.Connection],
        carry_out: CarryOut,
        named: Callable[[BaseException], BaseException],
        *,
        afterwards: Callable[[bool], float | None] = lambda _: None,
    ) -> None:
        self._name = name
        self._most = threads
        self._connect = connect
        self._carry_out = carry_out
        self._named = named
        self._afterwards = afterwards
        self._idle: list[sqlite3.Connection] = []
        self._threads: list[threading.Thread] = []
        # Not an executor: submitting to one costs more than a read.
        self._calls: SimpleQueue[bool] = SimpleQueue()
        # The attributes below are changed only under the lock.
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._working = 0
        self._called = False
        self._due: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()
        # If the lane is never closed, waiting units still run at exit.
        atexit.register(self._at_exit)

    def run(self, unit: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Run ``unit`` in the next batch.

        If the caller is cancelled, the unit still runs, unless :data:`CarryOut` skips units
        without a caller.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            self._waiting.append(Job(unit, future))
            # A thread that was called and has not started yet takes this one too.
            if not self._called and self._working < self._most:
                self._called, self._due = True, loop
                self._working += 1
                # After this turn of the loop, so that its other units join the batch.
                loop.call_soon(self._call)
            elif self._due not in (None, loop):
                # The other loop may be closed before it calls a thread.
                loop.call_soon(self._call)
        return future

    def close(self) -> bool:
        """Run the waiting units, then end the threads; return whether any connection was open.

        Blocks.
        """
        atexit.unregister(self._at_exit)
        self._call()
        for _ in self._threads:
            self._calls.put(False)
        while self._threads:
            self._threads.pop().join()
        was_open = bool(self._idle)
        while self._idle:
            self._idle.pop().close()
        return was_open

    def _at_exit(self) -> None:
        # A forked child has no threads and must not use the parent's connections: SQLite's
        # locks are not inherited.
        if os.getpid() == self._process:
            self.close()

    def _call(self) -> None:
        """Wake a thread for the waiting units, unless one was called already."""
        with self._lock:
            due, self._due = self._due, None
        if due is None:
            return
        self._calls.put(True)
        if len(self._threads) < self._working:
            name = f"{self._name}-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        pause: float | None = None
        while self._is_called(pause):
            while jobs := self._take():
                _deliver(jobs, self._answers(jobs))
                pause = self._afterwards(False)

    def _is_called(self, pause: float | None) -> bool:
        """Wait for the next call; return whether the lane is still open."""
        while True:
            try:
                return self._calls.get(timeout=pause)
            except Empty:
                pause = self._afterwards(True)

    def _take(self) -> list[Job]:
        with self._lock:
            self._called = False
            if len(self._waiting) <= BATCH:
                jobs = list(self._waiting)
                self._waiting.clear()
            else:
                jobs = [self._waiting.popleft() for _ in range(BATCH)]
            if not jobs:
                self._working -= 1
        return jobs

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        try:
            connection = self._connection()
        except Exception as error:  # noqa: BLE001 - passed to every caller
            return [Answer(error=self._named(error))] * len(jobs)
        try:
            answers = self._carry_out(connection, jobs)
        except BaseException as error:  # noqa: BLE001 - the same
            answers = [Answer(error=error)] * len(jobs)
        if _is_usable(connection):
            self._idle.append(connection)
        return [a if a.error is None else Answer(error=self._named(a.error)) for a in answers]

    def _connection(self) -> sqlite3.Connection:
        # Not checked first: another thread may take the last one.
        with suppress(IndexError):
            return self._idle.pop()
        return self._connect()


def _is_usable(connection: sqlite3.Connection) -> bool:
    """Return whether the next batch can use it; close it if not."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            connection.close()
        return False
    return True


def attempt(job: Job, door: DriverConnection) -> Answer:
    """Run one unit inside the open transaction."""
    try:
        return Answer(job.unit(door))
    except BaseException as error:  # noqa: BLE001 - passed to the caller
        return Answer(error=error)


def _deliver(jobs: Sequence[Job], answers: Sequence[Answer]) -> None:
    """Pass the answers back, each to the event loop of its caller."""
    pairs = zip(jobs, answers, strict=True)
    for loop, group in groupby(pairs, key=lambda pair: pair[0].future.get_loop()):
        # A closed loop has no caller left.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, list(group))


def _settle(answered: Sequence[tuple[Job, Answer]]) -> None:
    for (_, future), (value, error) in answered:
        if future.done():
            continue  # its caller was cancelled
        if error is None:
            future.set_result(value)
        elif isinstance(error, StopIteration):
            # A future refuses it, because it would end a coroutine silently.
            future.set_exception(RuntimeError(f"a unit raised {error!r}"))
        else:
            future.set_exception(error)
