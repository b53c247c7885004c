"""Blocking work always ends before its task does, even if the task is cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from nextcloud_mcp_server import concurrency
from nextcloud_mcp_server.concurrency import run_in_own_loop, run_to_the_end
from nextcloud_mcp_server.errors import TokenStorageError
from tests.support.errors import refuses


class Work:
    """Work that runs until ``may_end`` is set."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.cancelled = False
        self.ended = False

    def __call__(self, cancelled: Callable[[], bool]) -> str:
        """Wait, and remember whether the task was cancelled."""
        self.begun.set()
        assert self.may_end.wait(30)
        self.cancelled = cancelled()
        self.ended = True
        return "done"


async def _begin(work: Work) -> asyncio.Task[str]:
    task = asyncio.create_task(run_to_the_end(work, name="work"))
    await asyncio.to_thread(work.begun.wait)
    return task


async def test_the_result_is_returned() -> None:
    """The result comes from a thread of the given name, which is not cancelled."""
    result = await run_to_the_end(
        lambda cancelled: (threading.current_thread().name, cancelled()), name="my-work"
    )
    assert result == ("my-work", False)


async def test_an_error_is_raised_unchanged() -> None:
    """The error of the work is raised by the await."""
    error = KeyError("this one")

    def fail(_: Callable[[], bool]) -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        await run_to_the_end(fail, name="work")
    assert caught.value is error


async def test_a_cancelled_task_ends_after_its_work() -> None:
    """task.cancel() waits for the end of the work, even if it is called several times."""
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
    assert work.cancelled


async def test_a_cancelled_scope_ends_after_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled anyio scope waits for the end of the work, without a busy loop."""
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
    assert work.cancelled
    assert waits < 10, "the cancellation is delivered again and again"


async def test_an_error_after_a_cancellation_is_not_logged() -> None:
    """If the work fails after the cancellation, only the cancellation is raised."""
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


async def test_a_closed_coroutine_ends_after_its_work() -> None:
    """If the loop is torn down, which closes the coroutine, the work is stopped first."""
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


def test_without_a_loop_no_thread_is_started() -> None:
    """If no loop is running, the function runs in this thread."""
    assert run_in_own_loop(threading.get_ident) == threading.get_ident()


async def test_inside_a_loop_another_thread_is_used() -> None:
    """If a loop is running, asyncio.run() works in another thread."""

    async def main() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    assert run_in_own_loop(lambda: asyncio.run(main())) != threading.get_ident()


async def test_a_replaced_thread_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If threads run in this one, as with gevent, it is named, and nothing is called."""

    class Inline(ThreadPoolExecutor):
        def submit(self, call: Callable[..., Any], /, *_: Any, **__: Any) -> Future[Any]:
            future: Future[Any] = Future()
            try:
                future.set_result(call())
            except TokenStorageError as error:
                future.set_exception(error)
            return future

    monkeypatch.setattr(concurrency, "ThreadPoolExecutor", Inline)
    with refuses("no-asyncio", "as gevent does") as caught:
        run_in_own_loop(pytest.fail)
    assert "monkey.patch_all(thread=False, queue=False)" in caught.value.remedy
