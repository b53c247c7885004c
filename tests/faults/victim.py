"""The process that is hurt: forks a child for each order, arms the shim in it, lets it run.

Everything is imported once; a forked child starts in a few milliseconds, so that
thousands of crash points fit into a minute. Whoever survives what happens to it needs no
child, and shows what it leaves behind in a process that goes on, as a server does. Orders
and answers are lines of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from nextcloud_mcp_server import progress
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance import backup
from tests.faults import careful, careless
from tests.faults.telling import listen, tell

#: Seconds within which a thread that has nothing left to do ends.
PATIENCE = 2.0

ORDERS = careful.ORDERS | careless.ORDERS

#: Orders that patch nothing, so that they need no child of their own for it.
UNPATCHED = {*careful.ORDERS, careless.leave_open.__name__}


def run_child(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Carry out one order in this forked child, and leave."""
    folder = str(Path(order["path"]).parent).encode() + b"/"
    if order["record"]:
        shim.fault_record(order["record"].encode())
        listen(lambda promise: shim.fault_mark(promise.encode()))
    shim.fault_arm(folder, order["at"], order["kind"])
    answer = carry_out(order)
    if answer["end"] == "done":
        shim.fault_mark(b"done")
    answer["operations"] = shim.fault_count()
    shim.fault_arm(b"", 0, 0)
    tell(answer)
    os._exit(0)


def run_here(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Carry out one order in this process, which has to go on afterwards as it was."""
    folder = str(Path(order["path"]).parent).encode() + b"/"
    before = held(folder)
    shim.fault_arm(folder, order["at"], order["kind"])
    answer = carry_out(order)
    answer["operations"] = shim.fault_count()
    shim.fault_arm(b"", 0, 0)
    tell({**answer, "left": still_held(folder, before)})


def still_held(folder: bytes, before: set[str]) -> list[str]:
    """What is held now, was not before, and is not let go of by itself."""
    until = time.monotonic() + PATIENCE
    while (left := held(folder) - before) and time.monotonic() < until:
        # What only a cycle of garbage keeps is no leak, nor is a thread that is just ending.
        gc.collect()
        time.sleep(0.001)
    return sorted(left)


def held(folder: bytes) -> set[str]:
    """The open files below ``folder``, and the threads of this process."""
    found = {f"the thread {thread.name}" for thread in threading.enumerate()}
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.fsencode(target := descriptor.readlink()).startswith(folder):
                found.add(f"{target}, open as {descriptor.name}")
    return found


def carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order and say how it ended."""
    try:
        ORDERS[order["do"]](Path(order["path"]), order["argument"])
    except TokenStorageError as error:
        return {"end": "refused", "code": error.code, "message": error.message}
    except BaseException as error:  # noqa: BLE001 - told to the test, which fails on it
        return {"end": "raised", "message": f"{type(error).__name__}: {error}"}
    return {"end": "done"}


def warm_up() -> None:
    """Do everything once here, so that no forked child has to import or compile."""
    # What is told to those who wait is written by the clock: on a slow machine there would be
    # operations in a rehearsal that the next run does not have.
    setattr(progress, "INTERVAL", 3600.0)  # noqa: B010 - it is Final
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm.db"
        careful.start(path, "")
        careful.downgrade(path, "009")
        careful.start(path, "")
        careful.stamp(path, "009")
        # Not by its order, which would promise it to whoever asks for something first.
        backup.back_up(path)
        careful.restore(path, next(path.parent.glob("*-manual")).name)
        careful.store(path, "0")
    gc.collect()
    # A collection in a child would touch, and so copy, every page of this process.
    gc.freeze()


def armed() -> ctypes.CDLL | None:
    """The shim, where it was loaded into this process."""
    if not (path := os.environ.get("LD_PRELOAD")):
        return None
    shim = ctypes.CDLL(path)
    shim.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    shim.fault_record.argtypes = (ctypes.c_char_p,)
    shim.fault_mark.argtypes = (ctypes.c_char_p,)
    shim.fault_count.restype = ctypes.c_long
    return shim


def main() -> None:
    """Take orders until the input ends; without a shim, carry them out here."""
    logging.disable(logging.CRITICAL)
    warm_up()
    shim = armed()
    for line in sys.stdin:
        order = json.loads(line)
        status = 0
        if shim is None:
            tell({"operations": 0, **carry_out(order)})
        elif order["survives"] and order["do"] in UNPATCHED:
            run_here(order, shim)
        else:
            child = os.fork()
            if child == 0:
                run_child(order, shim)
            _, status = os.waitpid(child, 0)
        tell({"killed": os.WIFSIGNALED(status), "status": status})


if __name__ == "__main__":
    main()
