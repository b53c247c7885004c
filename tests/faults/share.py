"""Which part of a fault suite runs: all of it, or a share that a seed chooses.

``FAULT_SHARE`` is the part, from 0 to 1 (default: a tenth). ``FAULT_SEED`` chooses it
(default: the day's number), and is in the message of every failure that depends on it. The
same seed chooses the same points, in every process and on every machine.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

T = TypeVar("T")

SHARE: Final = float(os.environ.get("FAULT_SHARE") or 0.1)
SEED: Final = int(os.environ.get("FAULT_SEED") or datetime.now(UTC).date().toordinal())


def chance(name: str) -> random.Random:
    """A source of chance of its own for the test called ``name``."""
    return random.Random(f"{SEED} {name}")  # noqa: S311 - to be repeated, not to be secret


def amount(full: int) -> int:
    """The share of ``full`` trials; at least one."""
    return max(1, round(full * SHARE))


def share(points: Sequence[T], name: str = "") -> list[T]:
    """The chosen points, in their order; at least one where there are any."""
    if SHARE >= 1 or not points:
        return list(points)
    chosen = chance(name).sample(range(len(points)), min(amount(len(points)), len(points)))
    return [points[number] for number in sorted(chosen)]
