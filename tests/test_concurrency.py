"""Blocking work is never left half-way, whoever is cancelled and however."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import anyio
import pytest

from nextcloud_mcp_server.concurrency import run_in_own_loop, run_to_the_end


class Work:
    """Work that goes on until it is told to end."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.told_to_stop = False
        self.ended = False

    def __call__(self, cancelled: Callable[[], bool]) -> str:
        """Wait for leave to end, and note whether a stop was asked for."""
        self.begun.set()
        assert self.may_end.wait(30)
        self.told_to_stop = cancelled()
        self.ended = True
        return "done"


async def _begin(work: Work) -> asyncio.Task[str]:
    task = asyncio.create_task(run_to_the_end(work, name="work"))
    await asyncio.to_thread(work.begun.wait)
    return task


async def test_the_answer_comes_back() -> None:
    """What the work returns is returned, from a thread of the given name."""
    answer = await run_to_the_end(lambda _: threading.current_thread().name, name="my-work")
    assert answer.startswith("my-work")


async def test_an_error_comes_back_as_itself() -> None:
    """What the work raises is raised."""
    error = KeyError("this one")

    def fail(_: Callable[[], bool]) -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await run_to_the_end(fail, name="work")
    assert caught.value is error


async def test_a_cancelled_task_ends_after_its_work() -> None:
    """task.cancel() is told to the work, waits for its end, and then cancels; again and again."""
    work = Work()
    task = await _begin(work)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.ended
    assert work.told_to_stop


async def test_a_cancelled_scope_ends_after_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anyio scope that is cancelled is told to the work, waits for its end, and idles."""
    work = Work()
    waits = 0
    wait = asyncio.wait

    async def counted(futures: list[asyncio.Future[str]]) -> object:
        nonlocal waits
        waits += 1
        return await wait(futures)

    async def end_later() -> None:
        await asyncio.sleep(0.05)
        assert not work.ended
        work.may_end.set()

    monkeypatch.setattr(asyncio, "wait", counted)
    ending = asyncio.create_task(end_later())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_to_the_end(work, name="work")
    await ending
    assert scope.cancelled_caught
    assert work.ended
    assert work.told_to_stop
    assert waits < 10, "the cancellation is delivered again and again"


async def test_a_failure_after_a_cancellation_is_not_reported_as_lost() -> None:
    """Work that fails once nobody waits for its answer ends in the cancellation alone."""
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    may_end = threading.Event()

    def fail(_: Callable[[], bool]) -> None:
        may_end.wait(30)
        raise ValueError("too late")

    task = asyncio.create_task(run_to_the_end(fail, name="work"))
    await asyncio.sleep(0.01)
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)
    assert lost == []


async def test_a_coroutine_that_is_closed_ends_after_its_work() -> None:
    """A loop that is torn down closes what has not ended: the work is told, and waited for."""
    ended = False

    def slow(cancelled: Callable[[], bool]) -> None:
        nonlocal ended
        while not cancelled():
            time.sleep(0.001)
        time.sleep(0.05)
        ended = True

    waiting = run_to_the_end(slow, name="work")
    waiting.send(None)
    assert not ended
    waiting.close()
    assert ended


async def test_a_timeout_around_the_work_is_a_timeout() -> None:
    """asyncio.timeout() ends in TimeoutError, after the work has ended."""
    ended = False

    def slow(cancelled: Callable[[], bool]) -> None:
        nonlocal ended
        while not cancelled():
            time.sleep(0.001)
        ended = True

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await run_to_the_end(slow, name="work")
    assert ended


async def test_the_loop_goes_on_meanwhile() -> None:
    """Other tasks run while the work blocks."""
    work = Work()
    task = await _begin(work)
    await asyncio.sleep(0.01)
    work.may_end.set()
    assert await task == "done"
    assert not work.told_to_stop


def test_without_a_loop_the_thread_stays_the_callers() -> None:
    """Where no loop runs, the work runs right here."""
    assert run_in_own_loop(threading.get_ident) == threading.get_ident()


async def test_inside_a_loop_another_thread_has_its_own() -> None:
    """Where a loop runs, asyncio.run() works in a thread beside it."""

    async def main() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    assert run_in_own_loop(lambda: asyncio.run(main())) != threading.get_ident()
