"""A fork server for the program: everything is imported once, so that a child starts quickly.

Each line of JSON on its input lists the runs of one round. The children wait until all are
forked. Each runs the program with its arguments, user, folder and clock, and writes into its
own file. A server gets SIGTERM as soon as it listens.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import uvicorn.lifespan.on
import uvicorn.loops.asyncio
import uvicorn.protocols.http.auto  # noqa: F401 - as all of these, before there are children
from alembic.config import main as alembic
from platformdirs import user_data_path

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import lock
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock
from nextcloud_mcp_server.cli.main import main as program
from nextcloud_mcp_server.migrate import startup as _startup  # noqa: F401 - the same
from nextcloud_mcp_server.server import run as _run  # noqa: F401 - the same
from tests.support.contents import KEY

#: Seconds between two checks of the children.
_POLL = 0.002


def run(order: dict[str, Any], gate: int) -> int:
    """Run the program in this child and return the exit status."""
    out = os.open(order["out"], os.O_WRONLY)
    for number in (1, 2):
        os.dup2(out, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # The streams of Python still refer to the pipes of the server.
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    if clock := os.environ.get("LD_PRELOAD"):
        ctypes.c_long.in_dll(ctypes.CDLL(clock), "clock_offset").value = order["clock"]
    if timeout := os.environ.get("BUSY_TIMEOUT"):
        for module in [*sys.modules.values()]:
            if "BUSY_TIMEOUT" in vars(module):
                vars(module)["BUSY_TIMEOUT"] = float(timeout)
    if order["user"]:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    os.read(gate, 1)
    # Close it: the program would not have this file open.
    os.close(gate)
    first, *others = order["arguments"]
    if first == "alembic":
        alembic(argv=others)
        return 0
    if first == "unlocked":
        vars(lock)["guard"] = no_lock
        return program(others)
    return program(order["arguments"])


@contextmanager
def no_lock(*_: object, **__: object) -> Iterator[MigrationLock]:
    """Replace the lock with nothing, for the negative control."""
    yield MigrationLock()


def child(order: dict[str, Any], gate: int) -> None:
    """Run the program and end this process without cleanup."""
    status = 70
    try:
        status = run(order, gate)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a traceback is what the tests look for
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def run_all(orders: list[dict[str, Any]], limit: float) -> list[dict[str, Any]]:
    """Run ``orders`` at once; the status is None for a run that exceeds ``limit`` seconds."""
    gate, opener = os.pipe()
    children: dict[int, int] = {}
    for number, order in enumerate(orders):
        if (pid := os.fork()) == 0:
            os.close(opener)
            child(order, gate)
        children[pid] = number
    os.close(gate)
    os.close(opener)
    begun = time.monotonic()
    answers: list[dict[str, Any]] = [{"status": None, "seconds": limit} for _ in orders]
    serving = {pid for pid, number in children.items() if "run" in orders[number]["arguments"]}
    while children:
        time.sleep(_POLL)
        seconds = time.monotonic() - begun
        for pid, number in list(children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                answers[number] = {"status": os.waitstatus_to_exitcode(status), "seconds": seconds}
                del children[pid]
            elif seconds > limit:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                del children[pid]
            elif pid in serving and b"listening on" in Path(orders[number]["out"]).read_bytes():
                serving.discard(pid)
                os.kill(pid, signal.SIGTERM)
    return answers


def warm_up() -> None:
    """Run each command once: a child of another user may not be allowed to import modules."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        path = Path(folder) / "warm.db"

        async def main() -> None:
            async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
                await storage.list_user_ids()

        asyncio.run(main())
        for arguments in (
            ["current"],
            ["downgrade", "--yes"],
            ["upgrade"],
            ["backup"],
            ["history"],
        ):
            program(["db", *arguments, "-d", str(path)])
        program(["db", "stamp", "head", "-d", str(path)])
        "localhost".encode("idna")
        user_data_path("warm-up")


def main() -> None:
    """Process lines until the input ends."""
    warm_up()
    logging.root.handlers.clear()
    for line in sys.stdin:
        order = json.loads(line)
        os.write(1, json.dumps(run_all(order["runs"], order["limit"])).encode() + b"\n")


if __name__ == "__main__":
    main()
