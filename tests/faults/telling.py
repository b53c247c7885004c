"""What the victim says: answers to its test, and promises that must be kept from then on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

_listeners: list[Callable[[str], None]] = []


def tell(answer: dict[str, Any]) -> None:
    """Write one line of JSON, unbuffered."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def listen(listener: Callable[[str], None]) -> None:
    """Have ``listener`` hear every promise."""
    _listeners.append(listener)


def promise(what: str) -> None:
    """Say that ``what`` is done, and survives whatever comes."""
    for listener in _listeners:
        listener(what)
    tell({"acknowledged": what})
