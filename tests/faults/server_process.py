"""A process that has imported everything and forks starts on a server, to race or to be killed."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql import locked, pool  # noqa: F401 - before the forks
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import run  # noqa: F401 - before the forks
from nextcloud_mcp_server.migrate.startup import prepare
from tests.support.child import Child

#: Who is killed: this process, or the one that serves it, by a message or by SIGKILL. And this
#: process when it has sent a statement whose answer is on its way.
CLIENT, TERMINATED, KILLED, SENT = "client", "terminated", "kill -9", "sent"


class Ended(NamedTuple):
    """The end of a start.

    Attributes:
        end: what was done, ``killed``, or the code of the error.
        statements: what was executed.
    """

    end: str
    statements: list[str]


class Starter:
    """Forks starts."""

    def __init__(self) -> None:
        self._child = Child("from tests.faults.server_process import serve; serve()")
        assert self._child.answer() == "ready"

    def start(
        self, url: str, at: int = 0, kind: str = "", admin: str = "", *, commits: bool = False
    ) -> Ended:
        """Start, with a fault before a statement.

        Args:
            url: of the database.
            at: the number of the statement, from 1; 0 for none.
            kind: who is killed.
            admin: the URL for ending the process of the server.
            commits: whether each revision is committed, which is wrong.
        """
        order = {"url": url, "at": at, "kind": kind, "admin": admin, "commits": commits}
        [ended] = self._ask([order])
        return ended

    def race(self, url: str, number: int) -> list[str]:
        """Start ``number`` processes at once; return what each has done."""
        order = {"url": url, "at": 0, "kind": "", "admin": "", "commits": False}
        return [ended.end for ended in self._ask([order] * number)]

    def close(self) -> None:
        """End the process."""
        self._child.kill()

    def _ask(self, orders: list[dict[str, Any]]) -> list[Ended]:
        return [Ended(*one) for one in json.loads(self._child.ask(json.dumps(orders)))]


def serve() -> None:
    """Carry out the orders of each line."""
    _tell("ready")
    for line in sys.stdin:
        go, tell = os.pipe()
        forked = [_fork(order, go, tell) for order in json.loads(line)]
        os.close(go)
        # All of them wait for the end of this pipe.
        os.close(tell)
        _tell(json.dumps([_result(pid, pipe) for pid, pipe in forked]))


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fork(order: dict[str, Any], go: int, tell: int) -> tuple[int, int]:
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return pid, read
    os.close(read)
    os.close(tell)
    signal.alarm(120)
    statements: list[str] = []
    try:
        os.read(go, 1)
        _count(statements, order)
        try:
            end = str(prepare(connect(order["url"])).action)
        except TokenStorageError as error:
            end = error.code
        except Exception as error:  # noqa: BLE001 - no test expects one
            end = f"{type(error).__name__}: {error}"
        os.write(write, json.dumps([end, statements]).encode())
    finally:
        os._exit(0)


def _result(pid: int, pipe: int) -> Ended:
    parts = []
    while part := os.read(pipe, 65_536):
        parts.append(part)
    os.close(pipe)
    os.waitpid(pid, 0)
    text = b"".join(parts)
    return Ended(*json.loads(text)) if text else Ended("killed", [])


def _count(statements: list[str], order: dict[str, Any]) -> None:
    """Note every statement, and make a fault before one of them."""
    inner: Callable[..., Any] = psycopg.Cursor.execute

    def execute(self: psycopg.Cursor[Any], query: Any, *args: Any, **options: Any) -> Any:
        statements.append(str(query))
        if len(statements) == order["at"]:
            _fault(inner, self.connection, str(query), order)
        result = inner(self, query, *args, **options)
        if order["commits"] and str(query).startswith(("UPDATE alembic_version", "COMMIT")):
            inner(self.connection.cursor(), "COMMIT")
            inner(self.connection.cursor(), "BEGIN")
        return result

    psycopg.Cursor.execute = execute  # type: ignore[method-assign]


def _fault(
    execute: Callable[..., Any],
    connection: psycopg.Connection[Any],
    query: str,
    order: dict[str, Any],
) -> None:
    if order["kind"] == SENT:
        connection.pgconn.send_query(query.encode())
        connection.pgconn.flush()
    if order["kind"] in {SENT, CLIENT}:
        os.kill(os.getpid(), signal.SIGKILL)
    # Behind a pooler libpq has another number.
    [(pid,)] = execute(connection.cursor(), "SELECT pg_backend_pid()").fetchall()
    if order["kind"] == TERMINATED:
        with psycopg.connect(order["admin"], autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        return
    os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.005)
