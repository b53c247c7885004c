"""Progress reporting for long operations.

The worker reports its phase and how far it is (:class:`Reporter`). A report only assigns a
variable, so it may be called in a tight loop. A thread passes the latest report to the
callbacks every :data:`INTERVAL` seconds, so that a phase without reports (one statement over
a large table, the sync of a slow disk) still shows that time passes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

logger = logging.getLogger(__name__)

#: Seconds between two calls of a callback. Work that takes less calls none.
INTERVAL: Final = 0.5

#: Seconds between two lines in a log.
LOG_INTERVAL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of an operation.

    Attributes:
        phase: the current phase, as in "copying it".
        done: how many of ``total`` are done in this phase.
        total: 0 if unknown.
        unit: the unit of both: "pages", "revisions".
        seconds: the time since the operation began.
    """

    phase: str
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        """Return the phase, with the numbers if there are any."""
        return (
            f"{self.phase} ({self.done} of {self.total} {self.unit})" if self.total else self.phase
        )


ProgressCallback = Callable[[Progress], None]


class Reporter(Protocol):
    """The function that the worker calls to report its progress."""

    def __call__(self, phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Report the current phase and how far it is."""


def silent(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
    """Ignore the report: a :class:`Reporter` without callbacks."""


@contextmanager
def reporting(*callbacks: ProgressCallback) -> Iterator[Reporter]:
    """Pass the reports of the ``with`` block to ``callbacks``, from a separate thread.

    A callback that raises is not called again: showing the progress must not stop the work.
    """
    started = time.monotonic()
    latest: tuple[str, int, int, str] | None = None
    ended = threading.Event()

    def report(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        nonlocal latest
        latest = (phase, done, total, unit)

    def pass_on() -> None:
        active = list(callbacks)
        while not ended.wait(INTERVAL):
            if latest is None:
                continue
            now = Progress(*latest, seconds=time.monotonic() - started)
            for callback in tuple(active):
                try:
                    callback(now)
                except Exception:
                    logger.debug("a progress callback failed", exc_info=True)
                    active.remove(callback)

    thread = threading.Thread(target=pass_on, name="token-store-progress", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # None can be had: the work goes on, and its progress is not shown.
        yield report
        return
    try:
        yield report
    finally:
        ended.set()
        thread.join()


def to_log(database: object) -> ProgressCallback:
    """Return a callback that logs a line about ``database`` every few seconds."""
    return paced(
        lambda now: logger.info("%s: %s, %.0f s so far", database, now, now.seconds), LOG_INTERVAL
    )


def paced(callback: ProgressCallback, interval: float) -> ProgressCallback:
    """Call ``callback`` at most every ``interval`` seconds of the operation."""
    due = interval

    def call_if_due(now: Progress) -> None:
        nonlocal due
        if now.seconds >= due:
            due = now.seconds + interval
            callback(now)

    return call_if_due


def to_waiters(announce: Callable[[str], None], doing: str) -> ProgressCallback:
    """Return a callback that announces each new phase to the processes that wait for the lock."""
    announced = ""

    def announce_phase(now: Progress) -> None:
        nonlocal announced
        if now.phase != announced:
            announced = now.phase
            announce(f"{doing} ({now.phase})")

    return announce_phase
