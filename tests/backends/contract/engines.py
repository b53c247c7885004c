"""The engines that the contract is run against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple


class Engine(NamedTuple):
    """One engine.

    Attributes:
        name: its name, as ``Database.engine`` gives it.
        place: makes a place without a database; returns the argument of ``connect()``.
        secret: an SQL literal of encrypted bytes.
    """

    name: str
    place: Callable[[Path], str]
    secret: str


ENGINES: Final = (Engine("sqlite", lambda folder: str(folder / "tokens.db"), "x'0102'"),)
