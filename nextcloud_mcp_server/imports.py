"""Imports in a thread, beside a process that may fork.

A module that a thread is importing at a fork is incomplete in the child for ever, and its lock is
held there by a thread that does not exist. So a fork waits for these imports.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

#: Held while a thread imports what it needs.
IMPORTING: Final = threading.RLock()

#: Seconds that a fork waits at most: the thread may wait for a module that the forking one imports.
_TIMEOUT: Final = 10.0


def _release() -> None:
    # RuntimeError: the wait has timed out.
    with suppress(RuntimeError):
        IMPORTING.release()


os.register_at_fork(
    before=lambda: IMPORTING.acquire(timeout=_TIMEOUT),
    after_in_parent=_release,
    after_in_child=IMPORTING._at_fork_reinit,  # type: ignore[attr-defined]
)
