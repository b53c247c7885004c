"""Forked children of the test's own process."""

from __future__ import annotations

import os
import select
import signal
import warnings
from collections.abc import Callable
from typing import Final

#: Seconds after which a child counts as hanging.
HANGS: Final = 20.0


class Fork:
    """A forked child that calls a function and sends back its result as text."""

    def __init__(self, call: Callable[[], object]) -> None:
        """Fork it."""
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            # Newer interpreters warn of a fork beside threads, which is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                try:
                    text = str(call())
                except BaseException as error:  # noqa: BLE001 - sent to the parent
                    text = getattr(error, "code", repr(error))
                os.write(write, text.encode())
            finally:
                os._exit(0)
        os.close(write)

    def result(self) -> str:
        """Return the text, or "hangs" after killing a child that sends none in time."""
        ready, _, _ = select.select([self._read], [], [], HANGS)
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
        text = os.read(self._read, 65536).decode() if ready else "hangs"
        os.close(self._read)
        os.waitpid(self.pid, 0)
        return text


def in_child(call: Callable[[], object]) -> str:
    """Return what ``call`` returns in a forked child, or the code of its error."""
    return Fork(call).result()
