"""Measure the program and a baseline in turns, and compare their ratio with a limit.

Other load on the machine affects both of a pair, so the ratio is computed within each round.
The result is the median of the ratios, the spread their median absolute deviation.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from subprocess import DEVNULL, Popen, check_call
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Runs what is measured and returns its seconds.
Clock = Callable[[], float]

#: Variables that a measured process does not get: of another database or key, and the one that
#: forbids bytecode, without which it would compile every module.
_OTHERS: Final = (
    "DATABASE_URL",
    "PYTHONDONTWRITEBYTECODE",
    "TOKEN_ENCRYPTION_KEY_FILE",
    "TOKEN_STORAGE_DB",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        base: seconds of the baseline; None if the figure is no time.
        ours: seconds of the program.
        ratio: the median of ``ours / base``.
        spread: the median deviation of that ratio.
        reach: the limit as text.
        found: the result, if it is not a ratio.
        holds: whether the limit is kept; None if there is none.
    """

    what: str
    baseline: str = ""
    base: float | None = None
    ours: float | None = None
    ratio: float | None = None
    spread: float | None = None
    reach: str = ""
    found: str = ""
    holds: bool | None = None


@dataclass(frozen=True, slots=True)
class Pairs:
    """The seconds of the baseline and of the program in each round."""

    base: tuple[float, ...]
    ours: tuple[float, ...]

    def judged(
        self, what: str, baseline: str, limit: float | None = None, seconds: float | None = None
    ) -> Row:
        """Return the row: at most ``limit`` times the baseline and ``seconds``, if given."""
        ratios = [ours / base for base, ours in zip(self.base, self.ours, strict=True)]
        ratio, ours = median(ratios), median(self.ours)
        limits = {}
        if limit is not None:
            limits[f"at most {limit:g}x"] = ratio <= limit
        if seconds is not None:
            limits[f"under {readable(seconds)}"] = ours <= seconds
        return Row(
            what=what,
            baseline=baseline,
            base=median(self.base),
            ours=ours,
            ratio=ratio,
            spread=median(abs(r - ratio) for r in ratios),
            reach=", ".join(limits),
            holds=all(limits.values()) if limits else None,
        )


def compare(base: Clock, ours: Clock, rounds: int, *, warm: int = 0) -> Pairs:
    """Run both ``rounds`` times in turns, each first in every second round.

    Before that, ``warm`` rounds run that do not count.
    """
    found: list[tuple[float, float]] = []
    for number in range(warm + rounds):
        # The second one runs with warm caches.
        if number % 2:
            second, first = ours(), base()
        else:
            first, second = base(), ours()
        if number >= warm:
            found.append((first, second))
    return Pairs(*(tuple(column) for column in zip(*found, strict=True)))


def timed(work: Callable[[], object], times: int = 1) -> Clock:
    """Return a clock around ``times`` calls of ``work``, for the seconds of one call."""

    def clock() -> float:
        with undisturbed():
            begun = time.perf_counter()
            for _ in range(times):
                work()
            return (time.perf_counter() - begun) / times

    return clock


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run the garbage collector before and not meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread and the threads that it starts on one core, if the system can.

    Otherwise one of a pair that uses a thread leaves the caches of this core to the other.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def process(command: Sequence[str], environ: Mapping[str, str]) -> Clock:
    """Return a clock around a child process; it raises :exc:`subprocess.CalledProcessError`."""

    def clock() -> float:
        begun = time.perf_counter()
        check_call(command, env=environ, stdin=DEVNULL, stdout=DEVNULL)
        return time.perf_counter() - begun

    return clock


def peak(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, int]:
    """Return the output of a child process and its peak memory in bytes (Linux)."""
    with Popen(command, env=environ, stdin=DEVNULL, stdout=-1, text=True) as child:
        output = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command[:3]} ended with {child.returncode}")
    return output, used.ru_maxrss * 1024


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of a measured process: this one's, with ``settings``."""
    kept = {name: value for name, value in os.environ.items() if name not in _OTHERS}
    return {**kept, **settings}


def fact(what: str, found: str, reach: str, *, holds: bool) -> Row:
    """Return a figure that is no time."""
    return Row(what=what, found=found, reach=reach, holds=holds)


def readable(seconds: float) -> str:
    """Return seconds as readable text."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
