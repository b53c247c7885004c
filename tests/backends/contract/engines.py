"""The engines that the contract is run against."""

from __future__ import annotations

from typing import Final, NamedTuple


class Engine(NamedTuple):
    """One engine.

    Attributes:
        name: its name.
        secret: an SQL literal of encrypted bytes.
        is_file: whether the database is a file, with a lock beside it that can be shared.
        no_lock: code that lets every process have the lock at once.
    """

    name: str
    secret: str
    is_file: bool
    no_lock: str


SQLITE: Final = Engine(
    "sqlite",
    "x'0102'",
    is_file=True,
    no_lock="""
from contextlib import nullcontext
from nextcloud_mcp_server.backends.sqlite import lock
lock.guard = lambda *_, **__: nullcontext(lock.MigrationLock())
""",
)

POSTGRESQL: Final = Engine(
    "postgresql",
    "'\\x0102'::bytea",
    is_file=False,
    no_lock="""
import time
from nextcloud_mcp_server.backends.postgresql import locked
locked._TRY = "SELECT {key} IS NOT NULL"
inner = locked.LockedServer.require_writable

def slow(self):
    # After the inspection, and long enough for five processes on a busy machine.
    time.sleep(1)
    inner(self)

locked.LockedServer.require_writable = slow
""",
)

ENGINES: Final = (SQLITE, POSTGRESQL)
