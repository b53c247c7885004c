"""What long work says of itself while it runs, and who listens.

The one who works says which phase it is in, and how far (:class:`Say`). That costs an
assignment, so it may be said as often as there is something to say. A thread of its own
passes the latest on to the listeners every half second, so a phase that says nothing for
minutes (one statement over a large table, the sync of a slow disk) is seen to go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

logger = logging.getLogger(__name__)

#: Seconds between two words to the listeners. What takes less is never heard of.
INTERVAL: Final = 0.5

#: Seconds between two lines in a log.
LOG_INTERVAL: Final = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far some work is.

    Attributes:
        phase: what is being done, as in "copying it".
        done: how many of ``total`` are done in this phase.
        total: how many there are; 0 where nobody can tell.
        unit: of what: "pages", "revisions".
        seconds: since the work began.
    """

    phase: str
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        """The phase and how far it is, for a person."""
        return (
            f"{self.phase} ({self.done} of {self.total} {self.unit})" if self.total else self.phase
        )


Listener = Callable[[Progress], None]


class Say(Protocol):
    """Called by the one who works."""

    def __call__(self, phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Say what is being done now, and how far it is."""


def silent(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
    """A :class:`Say` that nobody listens to."""


@contextmanager
def heard(*listeners: Listener) -> Iterator[Say]:
    """Let ``listeners`` hear how far the body is, from a thread that ends with it.

    Each is called with the latest every :data:`INTERVAL` seconds, one after the other. One
    that raises is not called again: what is shown must not stop what is done.
    """
    begun = time.monotonic()
    latest: tuple[str, int, int, str] | None = None
    ended = threading.Event()

    def say(phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        nonlocal latest
        latest = (phase, done, total, unit)

    def pass_on() -> None:
        listening = list(listeners)
        while not ended.wait(INTERVAL):
            if latest is None:
                continue
            now = Progress(*latest, seconds=time.monotonic() - begun)
            for listener in tuple(listening):
                try:
                    listener(now)
                except Exception:
                    logger.debug("a listener failed", exc_info=True)
                    listening.remove(listener)

    thread = threading.Thread(target=pass_on, name="token-store-progress", daemon=True)
    thread.start()
    try:
        yield say
    finally:
        ended.set()
        thread.join()


def to_log(database: Path) -> Listener:
    """A line in the log every few seconds, about work on ``database``."""
    return paced(
        lambda now: logger.info("%s: %s, %.0f s so far", database, now, now.seconds), LOG_INTERVAL
    )


def paced(listener: Listener, interval: float) -> Listener:
    """Let ``listener`` hear only every ``interval`` seconds of the work."""
    due = interval

    def listen(now: Progress) -> None:
        nonlocal due
        if now.seconds >= due:
            due = now.seconds + interval
            listener(now)

    return listen


def to_waiters(announce: Callable[[str], None], doing: str) -> Listener:
    """Write each new phase where those who wait for the lock read what its holder does."""
    written = ""

    def listen(now: Progress) -> None:
        nonlocal written
        if now.phase != written:
            written = now.phase
            announce(f"{doing} ({now.phase})")

    return listen
