"""The process that is hurt: forks a child for each order, arms the shim in it, lets it run.

Everything is imported once; a forked child starts in a few milliseconds, so that
thousands of crash points fit into a minute. Orders and answers are lines of JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nextcloud_mcp_server import upkeep
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrations import downgrade_database, stamp_database, upgrade_database

KEY = "bm1jcC1jb3JwdXMtZml4ZWQta2V5LTAxMjM0NTY3ODk="


def start(path: Path, _argument: str) -> None:
    """Start on the database, as a server does."""
    upgrade_database(path)


def downgrade(path: Path, argument: str) -> None:
    """Go back to a revision."""
    downgrade_database(path, argument)


def stamp(path: Path, argument: str) -> None:
    """Record a revision."""
    stamp_database(path, argument)


def backup(path: Path, _argument: str) -> None:
    """Back the database up."""
    upkeep.back_up(path)


def store(path: Path, argument: str) -> None:
    """Store tokens one by one; each acknowledged one is told at once."""

    async def main() -> None:
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            for number in range(int(argument)):
                await storage.store_refresh_token(f"user-{number}", f"token-{number}")
                tell({"acknowledged": f"user-{number}"})

    asyncio.run(main())


def delete(path: Path, argument: str) -> None:
    """Delete tokens one by one; each acknowledged deletion is told at once."""

    async def main() -> None:
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            for number in range(int(argument)):
                await storage.delete_refresh_token(f"user-{number}")
                tell({"acknowledged": f"user-{number}"})

    asyncio.run(main())


def naive(path: Path, _argument: str) -> None:
    """The negative control: an upgrade as it is often written, a commit for every statement."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    for number in range(8):
        connection.execute(f"CREATE TABLE step_{number} (id INTEGER PRIMARY KEY)")
    connection.execute("UPDATE alembic_version SET version_num='010'")
    connection.close()


ORDERS: dict[str, Callable[[Path, str], None]] = {
    order.__name__: order for order in (start, downgrade, stamp, backup, store, delete, naive)
}


def tell(answer: dict[str, Any]) -> None:
    """Write one line of JSON, unbuffered."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def run_child(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Carry out one order in this forked child, and leave."""
    path = Path(order["path"])
    folder = str(path.parent).encode() + b"/"
    status = 0
    shim.fault_arm(folder, order["at"], order["kind"])
    try:
        ORDERS[order["do"]](path, order["argument"])
        answer: dict[str, Any] = {"end": "done"}
    except TokenStorageError as error:
        answer = {"end": "refused", "code": error.code, "message": error.message}
    except BaseException as error:  # noqa: BLE001 - told to the test, which fails on it
        answer = {"end": "raised", "message": f"{type(error).__name__}: {error}"}
        status = 3
    answer["operations"] = shim.fault_count()
    shim.fault_arm(b"", 0, 0)
    tell(answer)
    os._exit(status)


def warm_up() -> None:
    """Do everything once here, so that no forked child has to import or compile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm.db"
        start(path, "")
        downgrade(path, "009")
        start(path, "")
        stamp(path, "010")
        backup(path, "")


def main() -> None:
    """Take orders until the input ends."""
    logging.disable(logging.CRITICAL)
    warm_up()
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    shim.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    shim.fault_count.restype = ctypes.c_long
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run_child(order, shim)
        _, status = os.waitpid(child, 0)
        tell({"killed": os.WIFSIGNALED(status), "status": status})


if __name__ == "__main__":
    main()
