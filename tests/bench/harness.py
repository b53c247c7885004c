"""Measure ours and its baseline in turns, and judge the ratio.

What a shared machine does to one of a pair it does to the other, so the ratio is taken within
each round and the median over all of them. The spread is the median absolute deviation.
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
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Does what is measured, and answers the seconds that it took.
Clock = Callable[[], float]

#: What a measured process must not know: another database, another key, and that it may not
#: keep its bytecode, with which it would compile every module that it imports.
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
        what: what was measured.
        baseline: what it is held against.
        base: seconds of the baseline; None for a figure that is no time.
        ours: seconds of ours.
        ratio: the median of ours over the baseline's.
        spread: the median deviation of that ratio.
        reach: what is to be reached, in words.
        found: what was found, where it is not a ratio.
        holds: whether it is; None where nothing is to be reached.
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
    """The seconds of the baseline and of ours, round by round."""

    base: tuple[float, ...]
    ours: tuple[float, ...]

    def judged(
        self, what: str, baseline: str, limit: float | None = None, seconds: float | None = None
    ) -> Row:
        """The row: at most ``limit`` times the baseline and, where given, ``seconds``."""
        ratios = [ours / base for base, ours in zip(self.base, self.ours, strict=True)]
        ratio, ours = median(ratios), median(self.ours)
        held = [
            *([] if limit is None else [ratio <= limit]),
            *([] if seconds is None else [ours <= seconds]),
        ]
        reach = [
            *([] if limit is None else [f"at most {limit:g}x"]),
            *([] if seconds is None else [f"under {told(seconds)}"]),
        ]
        return Row(
            what=what,
            baseline=baseline,
            base=median(self.base),
            ours=ours,
            ratio=ratio,
            spread=median(abs(r - ratio) for r in ratios),
            reach=", ".join(reach),
            holds=all(held) if held else None,
        )


def compare(base: Clock, ours: Clock, rounds: int, *, warm: int = 0) -> Pairs:
    """Run both ``rounds`` times in turns, each first in every second round.

    Args:
        base: the baseline.
        ours: what is held against it.
        rounds: how many pairs there are.
        warm: pairs that are run before and not counted.
    """
    found: list[tuple[float, float]] = []
    for number in range(warm + rounds):
        # Whoever comes second finds the caches warm.
        if number % 2:
            second, first = ours(), base()
        else:
            first, second = base(), ours()
        if number >= warm:
            found.append((first, second))
    return Pairs(*(tuple(column) for column in zip(*found, strict=True)))


def timed(work: Callable[[], object], times: int = 1) -> Clock:
    """A clock around ``times`` calls of ``work``; it answers the seconds of one."""

    def clock() -> float:
        with undisturbed():
            begun = time.perf_counter()
            for _ in range(times):
                work()
            return (time.perf_counter() - begun) / times

    return clock


@contextmanager
def undisturbed() -> Iterator[None]:
    """Collect the garbage of others before, and none meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keep this thread and those that it starts on one core, where the system can.

    Otherwise the one of a pair that works in a thread of its own leaves the caches of this
    core to the other.
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
    """A clock around a child process, from its start to its end.

    The clock raises :exc:`subprocess.CalledProcessError` where it fails.
    """

    def clock() -> float:
        begun = time.perf_counter()
        check_call(command, env=environ, stdin=DEVNULL, stdout=DEVNULL)
        return time.perf_counter() - begun

    return clock


def peak(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, int]:
    """What a child process prints, and the most memory it ever held, in bytes (Linux)."""
    with Popen(command, env=environ, stdin=DEVNULL, stdout=-1, text=True) as child:
        said = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command[:3]} ended with {child.returncode}")
    return said, used.ru_maxrss * 1024


def environment(**settings: str) -> dict[str, str]:
    """The environment of a measured process: this one's, with ``settings`` and no others."""
    kept = {name: value for name, value in os.environ.items() if name not in _OTHERS}
    return {**kept, **settings}


def fact(what: str, found: str, reach: str, *, holds: bool) -> Row:
    """A figure that is no time."""
    return Row(what=what, found=found, reach=reach, holds=holds)


def told(seconds: float) -> str:
    """Seconds, for a person."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def as_facts(row: Row) -> dict[str, Any]:
    """One figure, for ``--json``."""
    return {name: getattr(row, name) for name in Row.__slots__}
