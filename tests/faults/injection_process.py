"""A fork server for operations with faults: it arms the library in a child and runs the child.

Everything is imported once, so that a forked child starts in a few milliseconds and thousands
of kill points fit into a minute. An operation that survives its fault runs in this process,
which shows what it leaves open, as in a server. Messages are lines of JSON.
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
from tests.faults import broken_operations, operations
from tests.faults.operations import on_acknowledge, reply

#: Seconds within which a finished thread ends.
PATIENCE = 2.0


def run_child(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Run one operation in this forked child, and end it."""
    folder = str(Path(order["path"]).parent).encode() + b"/"
    if order["record"]:
        shim.fault_record(order["record"].encode())
        on_acknowledge.append(lambda text: shim.fault_mark(text.encode()))
    shim.fault_arm(folder, order["at"], order["kind"])
    answer = execute(order)
    if answer["end"] == "done":
        shim.fault_mark(b"done")
    answer["operations"] = shim.fault_count()
    shim.fault_arm(b"", 0, 0)
    reply(answer)
    os._exit(0)


def run_here(order: dict[str, Any], shim: ctypes.CDLL) -> None:
    """Run one operation in this process, and report what it leaves open."""
    folder = str(Path(order["path"]).parent).encode() + b"/"
    before = open_resources(folder)
    shim.fault_arm(folder, order["at"], order["kind"])
    answer = execute(order)
    answer["operations"] = shim.fault_count()
    shim.fault_arm(b"", 0, 0)
    reply({**answer, "left": leaked(folder, before)})


def leaked(folder: bytes, before: set[str]) -> list[str]:
    """Return the files and threads that were not open before and are not closed soon."""
    until = time.monotonic() + PATIENCE
    while (left := open_resources(folder) - before) and time.monotonic() < until:
        # A file in a garbage cycle is no leak, nor is a thread that is just ending.
        gc.collect()
        time.sleep(0.001)
    return sorted(left)


def open_resources(folder: bytes) -> set[str]:
    """Return the open files below ``folder`` and the threads of this process."""
    found = {f"the thread {thread.name}" for thread in threading.enumerate()}
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.fsencode(target := descriptor.readlink()).startswith(folder):
                found.add(f"{target}, open as {descriptor.name}")
    return found


def execute(order: dict[str, Any]) -> dict[str, Any]:
    """Run one operation and return its result."""
    name = order["do"]
    try:
        do = getattr(operations, name, None) or getattr(broken_operations, name)
        do(Path(order["path"]), order["argument"])
    except TokenStorageError as error:
        return {"end": "refused", "code": error.code, "message": error.message}
    except BaseException as error:  # noqa: BLE001 - the test reports it
        return {"end": "raised", "message": f"{type(error).__name__}: {error}"}
    return {"end": "done"}


def warm_up() -> None:
    """Run each operation once, so that no child must import or compile modules."""
    # Progress is written to the lock file by time: on a slow machine the reference run would
    # have operations that the next run does not have.
    setattr(progress, "INTERVAL", 3600.0)  # noqa: B010 - it is Final
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warm.db"
        operations.start(path, "")
        operations.downgrade(path, "009")
        operations.start(path, "")
        operations.stamp(path, "base")
        operations.start(path, "")
        # Not the operation, which would acknowledge it to the first test.
        backup.back_up(path)
        operations.restore(path, next(path.parent.glob("*-manual")).name)
        operations.store(path, "0")
    gc.collect()
    # A collection in a child would touch, and so copy, every page of this process.
    gc.freeze()


def armed() -> ctypes.CDLL | None:
    """Return the library if it is loaded into this process."""
    if not (path := os.environ.get("LD_PRELOAD")):
        return None
    shim = ctypes.CDLL(path)
    shim.fault_arm.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
    shim.fault_record.argtypes = (ctypes.c_char_p,)
    shim.fault_mark.argtypes = (ctypes.c_char_p,)
    shim.fault_count.restype = ctypes.c_long
    return shim


def main() -> None:
    """Process operations until the input ends; without the library, run them here."""
    logging.disable(logging.CRITICAL)
    warm_up()
    shim = armed()
    for line in sys.stdin:
        order = json.loads(line)
        status = 0
        if shim is None:
            reply({"operations": 0, **execute(order)})
        elif order["survives"] and (
            # It patches nothing, so that it can run in this process.
            hasattr(operations, order["do"]) or order["do"] == "leave_open"
        ):
            run_here(order, shim)
        else:
            child = os.fork()
            if child == 0:
                run_child(order, shim)
            _, status = os.waitpid(child, 0)
        reply({"killed": os.WIFSIGNALED(status), "status": status})


if __name__ == "__main__":
    main()
