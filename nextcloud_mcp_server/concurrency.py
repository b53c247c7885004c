"""Run blocking work in a thread and wait for its end, even if the task is cancelled.

A cancelled ``asyncio.to_thread`` returns while its thread still runs: a lock would be
released during a migration. Here the task is cancelled only after the thread has finished.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

import anyio

from nextcloud_mcp_server.errors import TokenStorageError, no_asyncio, no_real_thread, no_thread

T = TypeVar("T")

#: Seconds to wait for a task whose event loop does not run.
_PATIENCE: Final = 2.0

_POLL: Final = 0.005


class TaskLock:
    """A lock for tasks that may run in different event loops and threads.

    It is free in a forked child, and if the loop of its task was closed: that task never ends.
    """

    __slots__ = ("_guard", "_owner", "_process")

    def __init__(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._owner: _Owner | None = None

    async def acquire(self) -> _Owner:
        """Wait until no other task has it; return what releases it, for ``with``.

        Raises:
            TokenStorageError: ``no-asyncio``, even if it is free; ``interrupted`` if the loop of
                the task that has it was stopped.
        """
        own, stopped = _Owner(self, running_loop()), 0.0
        if self._process != os.getpid():
            self._process, self._guard, self._owner = os.getpid(), threading.Lock(), None
        # An event of asyncio belongs to one loop.
        while (other := self._take(own)) is not None:
            await asyncio.sleep(_POLL)
            stopped = 0.0 if other.is_running() else stopped + _POLL
            if stopped > _PATIENCE:
                raise TokenStorageError(
                    "The event loop that was opening or closing this store was stopped before it "
                    "was done.",
                    code="interrupted",
                    remedy="Let that loop run until its task has ended, or close it; then try "
                    "again.",
                )
        return own

    def release(self, owner: _Owner) -> None:
        """Let the next task have it, unless ``owner`` has lost it with its loop."""
        with self._guard:
            if self._owner is owner:
                self._owner = None

    def _take(self, own: _Owner) -> asyncio.AbstractEventLoop | None:
        """Take it if it is free; else return the loop of the task that has it."""
        with self._guard:
            if self._owner is None or self._owner.loop.is_closed():
                self._owner = own
                return None
            return self._owner.loop


class _Owner:
    """A task that has a :class:`TaskLock`, until the block ends."""

    __slots__ = ("_lock", "loop")

    def __init__(self, lock: TaskLock, loop: asyncio.AbstractEventLoop) -> None:
        self._lock = lock
        self.loop = loop

    def __enter__(self) -> None:
        """Have it already."""

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self._lock.release(self)


def running_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop.

    Raises:
        TokenStorageError: ``no-asyncio`` if there is none, for example on trio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise no_asyncio() from None


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        TokenStorageError: ``no-thread``.
    """
    try:
        thread.start()
    except RuntimeError as error:
        raise no_thread() from error


async def run_to_the_end(work: Callable[[Callable[[], bool]], T], *, name: str) -> T:
    """Run ``work`` in a new thread and wait for its end, even if the task is cancelled.

    Args:
        work: called with a function that returns whether the task was cancelled. Work that
            only waits should then stop.
        name: the name of the thread.

    Raises:
        asyncio.CancelledError: if the task was cancelled, after ``work`` has ended.
        TokenStorageError: ``no-thread`` if no thread can be started, or ``no-asyncio``;
            ``work`` was not called.
        BaseException: otherwise, the error of ``work``.
    """
    stop = threading.Event()
    loop = running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        try:
            result = work(stop.is_set)
        except BaseException as error:  # noqa: BLE001 - raised by the await
            _deliver(loop, future.set_exception, error)
        else:
            _deliver(loop, future.set_result, result)

    # An executor would double the cost of the thread. A thread that has delivered its result
    # is not joined, which would cost a quarter of it.
    thread = threading.Thread(target=body, name=name)
    start(thread)
    try:
        return await wait_to_the_end(future, stop.set)
    except BaseException:
        # Also if the loop is torn down, which closes this coroutine.
        stop.set()
        thread.join()
        raise


def _deliver(loop: asyncio.AbstractEventLoop, setter: Callable[[Any], None], value: object) -> None:
    # RuntimeError: the loop was closed meanwhile, so no task waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(setter, value)


async def wait_to_the_end(
    future: asyncio.Future[T], cancelled: Callable[[], object] = lambda: None
) -> T:
    """Wait until ``future`` is done, even if the task is cancelled.

    Args:
        future: the work that must end.
        cancelled: called if the task is cancelled.

    Raises:
        asyncio.CancelledError: if the task was cancelled, after ``future`` is done.
        BaseException: otherwise, the error of ``future``.
    """
    try:
        await _until_done(future)
    except asyncio.CancelledError:
        cancelled()
        # Without the shield, anyio would deliver its cancellation again in every iteration of
        # the loop. A native task.cancel() passes through it.
        with anyio.CancelScope(shield=True):
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
        # Retrieve the exception, otherwise asyncio logs that it never was.
        if not future.cancelled():
            future.exception()
        raise
    return future.result()


async def _until_done(future: asyncio.Future[T]) -> None:
    """Wait until ``future`` is done; cancelling the wait does not cancel ``future``."""
    # asyncio.wait() is too slow for a start without contention, and asyncio.shield() logs an
    # error that follows the cancellation.
    waiter: asyncio.Future[None] = future.get_loop().create_future()

    def wake(_: asyncio.Future[T]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(wake)
    await waiter


def run_in_own_loop(main: Callable[[], T]) -> T:
    """Call ``main``, which runs an event loop; in a new thread if this one already runs a loop.

    Raises:
        TokenStorageError: ``no-thread`` if no thread can be started; ``no-asyncio`` if gevent
            has replaced the threads, which then cannot run a loop each; ``main`` is not called.
    """
    # Outside of the `except`, so that an error of `main` has no other in its context.
    if not _is_in_loop():
        return main()

    def in_thread() -> T:
        if _is_in_loop():
            raise no_real_thread()
        return main()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="own-loop") as executor:
        try:
            future = executor.submit(in_thread)
        except RuntimeError as error:
            raise no_thread() from error
        return future.result()


def run_coroutine(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as :func:`run_in_own_loop`."""
    return run_in_own_loop(lambda: asyncio.run(work))


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
