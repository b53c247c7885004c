"""Watch the locals of our frames while something runs: what a traceback would show at any call."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final

from nextcloud_mcp_server import secret
from nextcloud_mcp_server.schema import secrets
from tests.secrecy.planted import found_in

_OURS: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("nextcloud_mcp_server", "alembic"))

#: What hides a value has it in plain.
_HIDE: Final = frozenset(
    one.__code__ for one in (secret.hidden, secret._hidden_container, secrets._hidden_id)
)

#: How often the locals at one place are examined: in a loop they change.
_OFTEN: Final = 3

#: What no traceback passes on as a value.
_NO_VALUES: Final = (ModuleType, FunctionType, type)


@cache
def _is_ours(code: CodeType) -> bool:
    name = code.co_filename
    return any(folder in name for folder in _OURS) and "site-packages" not in name


class Watch:
    """Examines the frames above each call. ``shown`` has what was found: function, variable, name.

    A call is where a function can fail, and the locals of all that wait for it are shown then.
    """

    def __init__(self) -> None:
        self.shown: set[tuple[str, str, str]] = set()
        self.examined: Counter[tuple[CodeType, int]] = Counter()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Examine the frames, which the interpreter calls with."""
        if event == "call":
            # It has not hidden its parameters yet.
            if frame.f_code in _HIDE:
                return
            caller = frame.f_back
        elif event == "c_call" and frame.f_code not in _HIDE:
            caller = frame
        else:
            return
        while caller is not None and caller.f_code not in _HIDE:
            at = (caller.f_code, caller.f_lasti)
            self.examined[at] += 1
            # Those above were examined as often.
            if self.examined[at] > _OFTEN:
                return
            if _is_ours(caller.f_code):
                self._examine(caller)
            caller = caller.f_back

    def _examine(self, frame: FrameType) -> None:
        for name, value in list(frame.f_locals.items()):
            if not isinstance(value, _NO_VALUES):
                for found in found_in(_text(value).encode()):
                    self.shown.add((frame.f_code.co_qualname, name, found))


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - it is made only halfway
        return ""


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch this thread, and those that are started in the block."""
    watch = Watch()
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        yield watch
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
