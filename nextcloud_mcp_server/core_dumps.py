"""No core dump: the memory of a process has keys and passwords, and its dump is a file."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def forbid() -> None:
    """Write no core dump of this process, nor of those that it starts.

    On Linux one byte is less than any dump, and a handler such as systemd-coredump, which no other
    limit stops, gets none either; see core(5) and ``do_coredump`` of the kernel.
    """
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(
            resource.RLIMIT_CORE, (1 if sys.platform == "linux" and hard else 0, hard)
        )
        if hard:
            return
    make_undumpable()


def make_undumpable() -> None:
    """Let no other process of this user read the memory, nor the kernel; Linux only.

    See prctl(2).
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - slow

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
