"""What a fork of the process waits for: a thread that starts, migrates or imports.

A child has none of the other threads. What one of them held at the fork stays held in the child:
a mutex of SQLite, the lock of a module that is half imported, a lock of a library. And SQLite
takes the locks of an inherited connection for its own. So a fork waits until no other thread is
in such a block. If that takes too long, the child is refused by name instead of waiting for ever.
"""

from __future__ import annotations

# These two take their locks before a fork. The hook that is registered last is called first, so
# they come before this one: a thread that imports needs their locks while the fork waits for it.
import concurrent.futures.thread  # noqa: F401
import logging  # noqa: F401
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError

#: Seconds that a fork waits at most: the thread may wait for a module that the forking one imports.
WAIT: Final = 10.0

_MOMENT: Final = 0.1
_SHORT: Final = 0.005

_PACKAGE: Final = __name__.partition(".")[0]

#: Guards what follows, and is held during a fork.
_changed = threading.Condition()
#: How many blocks each thread is in.
_blocks: Final[dict[int, int]] = {}
#: What is called before a fork, and after it in the parent and in the child.
_around: Final[list[tuple[Callable[[], None], Callable[[], None], Callable[[], None]]]] = []
#: The thread that is about to fork.
_forking: int | None = None
#: Whether the child of the fork that is under way will not be safe.
_leaving_unsafe = False
#: Whether this process is such a child, or a child of one.
_unsafe = False


class _Delayed:
    """A block that a fork by another thread waits for. A thread may nest it."""

    __slots__ = ()

    def __enter__(self) -> None:
        me = threading.get_ident()
        if me in _blocks and not _unsafe:
            # No other thread changes this number, and a fork waits already.
            _blocks[me] += 1
            return
        with _changed:
            if _unsafe:
                raise _forked()
            _changed.wait_for(_may_enter)
            _enter()

    def enter_at_once(self) -> bool:
        """Enter the block, or return False if a fork is under way: for who holds other locks."""
        # It is held during a fork, and otherwise for a moment.
        if not _changed.acquire(timeout=_MOMENT):
            return False
        try:
            if _unsafe or not _may_enter():
                return False
            _enter()
            return True
        finally:
            _changed.release()

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        if _blocks.get(me, 0) > 1:
            _blocks[me] -= 1
            return
        with _changed:
            # Absent in a child that was forked inside the block.
            _blocks.pop(me, None)
            _changed.notify_all()


def _may_enter() -> bool:
    me = threading.get_ident()
    return _forking in {None, me} or me in _blocks


def _enter() -> None:
    me = threading.get_ident()
    _blocks[me] = _blocks.get(me, 0) + 1


#: ``with forks.delayed:`` delays every fork of the process until the end of the block.
#: Raises ``forked`` in a child whose parent could not wait for it.
delayed: Final = _Delayed()


def sleep(seconds: float) -> None:
    """Sleep inside a block, and let the other threads fork meanwhile."""
    me = threading.get_ident()
    with _changed:
        blocks = _blocks.pop(me, 0)
        _changed.notify_all()
    time.sleep(seconds)
    with _changed:
        _changed.wait_for(lambda: _forking in {None, me})
        if blocks:
            _blocks[me] = blocks


def around(
    before: Callable[[], None], in_parent: Callable[[], None], in_child: Callable[[], None]
) -> None:
    """Call ``before`` when a fork has waited for the blocks, and one of the others after it."""
    _around.append((before, in_parent, in_child))


def leave_unsafe() -> None:
    """Refuse every store in the child of the fork that is under way."""
    global _leaving_unsafe  # noqa: PLW0603 - a state of the process
    _leaving_unsafe = True


def _forked() -> TokenStorageError:
    return TokenStorageError(
        f"This process ({os.getpid()}) was forked while another thread of its parent used a token "
        "store, and SQLite cannot be used here.",
        code="forked",
        remedy="Fork before a store is opened, or start the process with 'spawn'.",
    )


def _before() -> None:
    global _forking  # noqa: PLW0603 - a state of the process
    _changed.acquire()
    me = threading.get_ident()
    # Another thread is about to fork, and gives the lock back while it waits.
    _changed.wait_for(lambda: _forking is None)
    _forking = me
    deadline = time.monotonic() + WAIT
    while _blocks.keys() - {me} or _is_importing():
        if time.monotonic() > deadline:
            leave_unsafe()
            break
        # The end of an import wakes nobody.
        _changed.wait(_SHORT)
    for before, _, _ in _around:
        before()


def _is_importing() -> bool:
    """Return whether another thread is importing a module of this package."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(_PACKAGE)]
    if not any(getattr(module.__spec__, "_initializing", False) for module in modules):
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "<module>" and name.startswith(_PACKAGE):
            # This thread does: waiting would not end.
            return False
        frame = frame.f_back
    return True


def _after_in_parent() -> None:
    global _forking, _leaving_unsafe
    for _, in_parent, _ in _around:
        in_parent()
    _forking, _leaving_unsafe = None, False
    _changed.notify_all()
    _changed.release()


def _after_in_child() -> None:
    global _forking, _changed, _leaving_unsafe, _unsafe
    _forking, _changed = None, threading.Condition()
    _leaving_unsafe, _unsafe = False, _unsafe or _leaving_unsafe
    for thread in _blocks.keys() - {threading.get_ident()}:
        del _blocks[thread]
    for _, _, in_child in _around:
        in_child()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
