"""Lanes: units of work in batches, on threads that each use a connection of their own.

Passing one unit to a thread and its answer back costs more than the unit itself. So a free
thread takes every unit that waits, and passes all answers back at once: the busier the store,
the larger the batches, and no unit waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.concurrency import running_loop, start
from nextcloud_mcp_server.errors import TokenStorageError, not_open

#: The most units in one batch; the first of them waits for the last.
BATCH: Final = 128

#: Seconds that a fork waits for the running batches.
FORK_WAIT: Final = 1.0

_PAUSE: Final = 0.001


class Job(NamedTuple):
    """A unit of work, as the engine takes it, and the future that receives its answer."""

    unit: Any
    future: asyncio.Future[Any]


class Answer(NamedTuple):
    """The result of a unit: a value, or the error that it raised."""

    value: Any = None
    error: BaseException | None = None


#: Runs a batch on a driver's connection; returns an answer for each job, in order. Raises if
#: the connection cannot be used.
CarryOut = Callable[[Any, Sequence[Job]], Sequence[Answer]]


class Driver(NamedTuple):
    """How a lane uses the connections of an engine.

    Attributes:
        connect: opens a connection, for the first batch of a thread.
        is_usable: returns whether the next batch can use it; closes it if not.
        close: closes it, and raises nothing.
    """

    connect: Callable[[], Any]
    is_usable: Callable[[Any], bool]
    close: Callable[[Any], None]


def _nothing() -> None:
    pass


class Lane:
    """Runs units of work in batches. Its threads are started when they are needed.

    Args:
        name: of the threads.
        threads: how many batches may run at once.
        driver: the connections.
        carry_out: runs a batch.
        named: converts an error into the one that the caller receives.
        batch: the most units in one batch (default: :data:`BATCH`).
        afterwards: called in the thread with False after each batch, and with True if no unit
            arrives within the seconds that it returned (None: no limit).
        around_fork: called before a fork, after the connections are closed, and after it, in
            the parent and in the child.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        driver: Driver,
        carry_out: CarryOut,
        named: Callable[[BaseException], BaseException],
        *,
        batch: int = 0,
        afterwards: Callable[[bool], float | None] = lambda _: None,
        around_fork: tuple[Callable[[], None], Callable[[], None]] = (_nothing, _nothing),
    ) -> None:
        self._name = name
        self._most = threads
        self._driver = driver
        self._largest = batch or BATCH
        self._carry_out = carry_out
        self._named = named
        self._afterwards = afterwards
        self.before_fork, self._after_fork = around_fork
        self._idle: list[Any] = []
        # Not an executor: submitting to one costs more than a read.
        self._calls: SimpleQueue[bool] = SimpleQueue()
        # The attributes below are changed only under the lock, after the change has happened.
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._threads: list[threading.Thread] = []
        # How many threads wait for a call.
        self._free = 0
        # Whether a thread was called and has not taken its batch yet.
        self._called = False
        # The loop that calls a thread at the end of this turn.
        self._due: asyncio.AbstractEventLoop | None = None
        # Whether a thread is about to fork.
        self._paused = False
        # The error of every new unit; None while the lane is open.
        self._refusal: Callable[[], TokenStorageError] | None = None
        _lanes.add(self)
        # If the lane is never closed, waiting units still run at exit.
        atexit.register(self.close)

    def run(self, unit: Any) -> asyncio.Future[Any]:
        """Run ``unit`` in the next batch.

        If the caller is cancelled, the unit still runs, unless :data:`CarryOut` skips units
        without a caller.

        Raises:
            TokenStorageError: ``forked`` in a child of the process that opened the store,
                ``not-open`` after :meth:`close`, ``no-thread`` if none can be started,
                ``no-asyncio``.
        """
        loop = running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            self._waiting.append(Job(unit, future))
            # A thread that was called takes this unit too, and a working one looks for more.
            # Each loop calls for its own units: another one may end before it does.
            if not self._called and self._due is not loop and self._can_call():
                self._due = loop
                # After this turn of the loop, so that its other units join the batch.
                loop.call_soon(self._call)
        return future

    def look_after(self, seconds: float) -> None:
        """Start a thread that calls ``afterwards`` with True if no unit arrives meanwhile.

        Raises:
            TokenStorageError: ``no-thread``.
        """
        with self._lock:
            if self._refusal is None and not self._threads:
                self._start(seconds)

    def close(self) -> bool:
        """Run the waiting units, then end the threads; return whether any connection was open.

        Blocks until the running batches have ended. In a forked child it does nothing.
        """
        atexit.unregister(self.close)
        with self._lock:
            if self._refusal is not None:
                return True
            # No thread is started from now on.
            self._refusal = not_open
            for _ in self._threads:
                self._calls.put(False)
        while self._threads:
            self._threads.pop().join()
        # What no thread has taken: at the exit of the interpreter none can be started.
        self._run_waiting()
        was_open = bool(self._idle)
        self._close_idle()
        _lanes.discard(self)
        return was_open

    def is_current(self) -> bool:
        """Return whether this thread is one of the lane."""
        return threading.current_thread() in self._threads

    def stop(self, deadline: float) -> bool:
        """Let the threads end after their batches; return whether all have ended in time."""
        threads = list(self._threads)
        for _ in threads:
            self._calls.put(False)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def pause(self, deadline: float) -> None:
        """Let the batches end, close the connections, and hold the lock, until :meth:`resume`.

        A child must not inherit a connection of SQLite: the locks of the file would be noted as
        held there, and are not. If the child opened the file again, the parent would remove
        the WAL that the child writes to.
        """
        self._paused = True
        while True:
            self._lock.acquire()
            if self._free >= len(self._threads):
                break
            if time.monotonic() > deadline:
                forks.leave_unsafe()
                break
            self._lock.release()
            time.sleep(_PAUSE)
        self._close_idle()

    def resume(self) -> None:
        """Continue in the parent after the fork."""
        self._after_fork()
        self._paused = False
        self._lock.release()
        self._call()

    def disable(self) -> None:
        """Refuse every unit in the child after the fork."""
        self._after_fork()
        self._lock = threading.Lock()
        self._refusal = _forked

    def _can_call(self) -> bool:
        return bool(self._free) or len(self._threads) < self._most

    def _call(self) -> None:
        """Wake or start a thread for the waiting units, unless one was called already."""
        with self._lock:
            self._due = None
            if self._refusal is not None or self._paused:
                return
            if self._called or not self._waiting or not self._can_call():
                return
            if self._free:
                self._calls.put(True)
                self._free -= 1
            else:
                try:
                    self._start()
                except TokenStorageError as error:
                    self._fail_waiting(error)
                    return
            self._called = True

    def _start(self, pause: float | None = None) -> None:
        name = f"{self._name}-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._serve, args=(pause,), name=name, daemon=True)
        start(thread)
        self._threads.append(thread)

    def _fail_waiting(self, error: TokenStorageError) -> None:
        # A working thread takes the waiting units after its batch.
        if not self._threads:
            jobs = list(self._waiting)
            self._waiting.clear()
            _deliver(jobs, [Answer(error=error)] * len(jobs))

    def _serve(self, pause: float | None) -> None:
        pause = self._run_waiting(pause)
        while self._is_called(pause):
            pause = self._run_waiting()

    def _is_called(self, pause: float | None) -> bool:
        """Wait for the next call; return whether the lane is still open."""
        while True:
            try:
                return self._calls.get(timeout=pause)
            except Empty:
                with self._lock:
                    if not self._free:
                        continue  # a call came meanwhile
                    # A fork waits for it.
                    self._free -= 1
                pause = self._run_waiting(self._afterwards(True))

    def _run_waiting(self, pause: float | None = None) -> float | None:
        while jobs := self._take():
            if self._waiting:
                # They need another thread, and no new unit may call one.
                self._call()
            _deliver(jobs, self._answers(jobs))
            pause = self._afterwards(False)
        return pause

    def _take(self) -> list[Job]:
        with self._lock:
            self._called = False
            jobs: list[Job] = []
            if self._paused and self._refusal is None:
                pass  # this thread waits until the fork is done
            elif len(self._waiting) <= self._largest:
                jobs.extend(self._waiting)
                self._waiting.clear()
            else:
                jobs.extend(self._waiting.popleft() for _ in range(self._largest))
            if not jobs:
                self._free += 1
        return jobs

    def _answers(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        try:
            answers = self._batch(jobs)
            return [a if a.error is None else Answer(error=self._named(a.error)) for a in answers]
        except BaseException as error:  # noqa: BLE001 - no error may end the thread
            return [Answer(error=error)] * len(jobs)

    def _batch(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        try:
            connection = self._connection()
            try:
                return self._carry_out(connection, jobs)
            finally:
                if self._driver.is_usable(connection):
                    self._idle.append(connection)
        except BaseException as error:  # noqa: BLE001 - passed to every caller
            return [Answer(error=error)] * len(jobs)

    def _connection(self) -> Any:
        # Not checked first: another thread may take the last one.
        with suppress(IndexError):
            return self._idle.pop()
        return self._driver.connect()

    def _close_idle(self) -> None:
        while self._idle:
            self._driver.close(self._idle.pop())


def attempt(job: Job, door: Connection) -> Answer:
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


def _forked() -> TokenStorageError:
    return TokenStorageError(
        f"The token store was opened before this process ({os.getpid()}) was forked, and only the "
        "process that opened it can use it.",
        code="forked",
        remedy="Open a store in each process, after the fork: await initialize() there, or use "
        "the lifespan in each worker.",
    )


_lanes: WeakSet[Lane] = WeakSet()
#: The lanes that wait for the fork to end.
_pausing: Final[list[Lane]] = []


def _before_fork() -> None:
    deadline = time.monotonic() + FORK_WAIT
    for lane in list(_lanes):
        lane.pause(deadline)
        _pausing.append(lane)
    # When no other lane runs: a batch may wait for what the callback holds until after the fork.
    for lane in _pausing:
        lane.before_fork()


def _after_in_parent() -> None:
    while _pausing:
        _pausing.pop().resume()


def _after_in_child() -> None:
    _pausing.clear()
    for lane in list(_lanes):
        lane.disable()


forks.around(_before_fork, _after_in_parent, _after_in_child)
