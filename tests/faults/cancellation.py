"""Cancel a coroutine at the k-th iteration of its event loop, or at the k-th call in its worker.

Every await ends in an iteration of the loop, so that counting iterations reaches each await,
also those in the store's own tasks. Within a worker thread the calls of the package's functions
are counted: the worker stops inside one of them, the coroutine is cancelled, and only then the
worker continues.
"""

from __future__ import annotations

import asyncio
import fcntl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import anyio

import nextcloud_mcp_server

_PACKAGE: Final = str(Path(nextcloud_mcp_server.__file__).parent)

#: Iterations of the loop within which a cancellation arrives.
_TURNS: Final = 12

#: Seconds after which a coroutine that was cancelled counts as hanging.
PATIENCE: Final = 20.0


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts its iterations and calls ``strike`` before one of them."""

    turns = 0
    at = 0
    strike: Callable[[], object] = staticmethod(lambda: None)

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns == self.at:
            self.strike()
        super()._run_once()  # type: ignore[misc]


@dataclass
class CancelledRun:
    """One run of a coroutine, cancelled at one point.

    Attributes:
        database: the database that it opens.
        way: ``task`` for ``task.cancel()``, ``scope`` for an anyio scope.
        turn: the iteration of the loop before which it is cancelled; 0 for none.
        call: the call in its worker at which it is cancelled; 0 for none.
        locked: whether another process holds the lock during the run.
        calls: the number of calls in the worker.
        turns: the number of iterations until the end.
        struck: whether it was cancelled before its end.
        ended: ``finished``, ``cancelled`` or the exception.
        wrong: the problems.
    """

    database: Path
    way: str
    turn: int = 0
    call: int = 0
    locked: bool = False
    calls: int = 0
    turns: int = 0
    struck: bool = False
    ended: str = ""
    wrong: list[str] = field(default_factory=list)

    def run(self, main: Callable[[], Coroutine[Any, Any, object]]) -> CancelledRun:
        """Run ``main``, cancel it, and record what it leaves open."""
        with asyncio.Runner(loop_factory=CountingLoop) as runner:
            runner.run(self._watch(main))
        return self

    async def _watch(self, main: Callable[[], Coroutine[Any, Any, object]]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        threads, files = set(threading.enumerate()), open_files()
        scope = anyio.CancelScope()

        async def scoped() -> None:
            with scope:
                await main()

        task = asyncio.create_task(scoped() if self.way == "scope" else main())

        def strike() -> None:
            if not task.done():
                self.struck = True
                if self.way == "scope":
                    scope.cancel()
                else:
                    task.cancel()

        loop.turns, loop.at, loop.strike = 0, self.turn, strike
        with self._profiled(loop, task, strike):
            await asyncio.wait([task], timeout=PATIENCE)
        self.turns = loop.turns
        self._record(task, scope)
        await self._left(threads, files)

    def _record(self, task: asyncio.Task[object], scope: anyio.CancelScope) -> None:
        if not task.done():
            self.wrong.append("it hangs")
            task.cancel()
        elif task.cancelled() or scope.cancelled_caught:
            self.ended = "cancelled"
        else:
            error = task.exception()
            self.ended = "finished" if error is None else repr(error)
        if is_locked(self.database) and not self.locked:
            self.wrong.append("the lock is held after the end")

    async def _left(self, threads: set[threading.Thread], files: list[str]) -> None:
        deadline = time.monotonic() + 2
        # A finished thread may take a moment to end.
        while set(threading.enumerate()) - threads and time.monotonic() < deadline:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)
        if more := [thread.name for thread in set(threading.enumerate()) - threads]:
            self.wrong.append(f"threads are left: {more}")
        if open_files() != files:
            self.wrong.append(f"files are left open: {set(open_files()) - set(files)}")

    @contextmanager
    def _profiled(
        self, loop: CountingLoop, task: asyncio.Task[object], strike: Callable[[], None]
    ) -> Iterator[None]:
        """Count the calls in every thread that starts meanwhile."""

        def watch(frame: FrameType, event: str, _argument: object) -> None:
            if event != "call" or not frame.f_code.co_filename.startswith(_PACKAGE):
                return
            self.calls += 1
            if self.calls == self.call:
                self._strike_inside(loop, task, strike)

        threading.setprofile(watch)
        try:
            yield
        finally:
            threading.setprofile(None)

    def _strike_inside(
        self, loop: CountingLoop, task: asyncio.Task[object], strike: Callable[[], None]
    ) -> None:
        """In the worker: cancel the coroutine, wait until that has arrived, and check."""
        held = is_locked(self.database)
        arrived = threading.Event()

        def turn(left: int) -> None:
            if left == 0:
                arrived.set()
            else:
                loop.call_soon(turn, left - 1)

        def begin() -> None:
            strike()
            turn(_TURNS)

        loop.call_soon_threadsafe(begin)
        if not arrived.wait(PATIENCE):
            self.wrong.append("the loop stands still while the worker runs")
        if task.done():
            self.wrong.append("it ended before its worker")
        if held and not is_locked(self.database):
            self.wrong.append("the lock was free while the worker ran")


def open_files() -> list[str]:
    """Return the names of the open files of this process."""
    folder, found = Path("/proc/self/fd"), []
    for entry in list(folder.iterdir()):
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return sorted(found)


def is_locked(database: Path) -> bool:
    """Return whether the operating system holds a lock beside ``database``."""
    try:
        with database.with_name(database.name + ".lock").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
