"""Run blocking work in a thread, and never give it up half-way.

A cancelled ``to_thread`` goes on in its thread while whoever awaited it has left: a lock
would be free while the migration still runs. Here the one who awaits stays until the
thread has finished, and is cancelled then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def run_to_the_end(work: Callable[[Callable[[], bool]], T], *, name: str) -> T:
    """Run ``work`` in a thread of its own and wait for it, whatever happens meanwhile.

    Args:
        work: called with a function that says whether the awaiting task was cancelled;
            work that only waits should then stop.
        name: the name of the thread.

    Raises:
        asyncio.CancelledError: after ``work`` has ended, when the task was cancelled.
        BaseException: what ``work`` raised, when it was not.
    """
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def body() -> None:
        try:
            result = work(stop.is_set)
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            _deliver(loop, future.set_exception, error)
        else:
            _deliver(loop, future.set_result, result)

    # An executor of its own would cost as much again as the thread, and to join one that has
    # delivered, and has nothing more to do, a quarter of it.
    thread = threading.Thread(target=body, name=name)
    thread.start()
    try:
        return await wait_to_the_end(future, stop.set)
    except BaseException:
        # Not only cancelled: a loop that is torn down closes the coroutine where it stands.
        stop.set()
        thread.join()
        raise


def _deliver(loop: asyncio.AbstractEventLoop, into: Callable[[Any], None], what: object) -> None:
    # A loop that was closed meanwhile has nobody who waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(into, what)


async def wait_to_the_end(
    future: asyncio.Future[T], cancelled: Callable[[], object] = lambda: None
) -> T:
    """Await ``future`` even where the awaiting task is cancelled meanwhile.

    Args:
        future: what must not be left half-way.
        cancelled: called when the task is cancelled.

    Raises:
        asyncio.CancelledError: after ``future`` is done, when the task was cancelled.
        BaseException: what ``future`` holds, when it was not.
    """
    try:
        await _until_done(future)
    except asyncio.CancelledError:
        cancelled()
        # The scope holds off anyio's cancellation, which would otherwise be delivered again
        # at every turn of the loop; a native task.cancel() goes through it.
        with anyio.CancelScope(shield=True):
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
        # Retrieved, so that asyncio does not report it as lost.
        if not future.cancelled():
            future.exception()
        raise
    return future.result()


async def _until_done(future: asyncio.Future[T]) -> None:
    """Return when ``future`` is done; whoever cancels the wait does not cancel it."""
    # asyncio.wait() does the same for much more than an uncontended start has to spare, and
    # asyncio.shield() reports an error that comes after the cancellation as lost.
    waiter: asyncio.Future[None] = future.get_loop().create_future()

    def tell(_: asyncio.Future[T]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    future.add_done_callback(tell)
    await waiter


def run_in_own_loop(main: Callable[[], T]) -> T:
    """Call ``main``, which runs an event loop; in another thread where this one has a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return main()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="own-loop") as executor:
        return executor.submit(main).result()
