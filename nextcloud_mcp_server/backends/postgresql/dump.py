"""A dump of exactly what a migration is about to change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from psycopg import conninfo

from nextcloud_mcp_server.backends.postgresql.catalog import Place
from nextcloud_mcp_server.backends.postgresql.connect import Server
from nextcloud_mcp_server.errors import TokenStorageError, without_secrets
from nextcloud_mcp_server.filesystem.errors import naming
from nextcloud_mcp_server.schema.structure import quoted
from nextcloud_mcp_server.secret import hidden


def write_dump(place: Place, server: Server, target: Path, tables: Sequence[str]) -> Path:
    """Write the tables with ``pg_dump`` in its custom format, as the transaction sees them.

    Nobody can write to them from here on, until the transaction ends.

    Args:
        place: in the transaction, before its first change.
        server: where ``pg_dump`` connects to.
        target: the file, which must not exist.
        tables: qualified names; none writes no dump.

    Raises:
        TokenStorageError: ``backup-failed``; ``bad-path`` for a file that exists.
    """
    major = place.connection.info.server_version // 10000
    _require_tool(major)
    if tables:
        # A dump reads under a lighter lock.
        place.rows(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE")
    place.rows("SET LOCAL idle_in_transaction_session_timeout TO 0")
    [(snapshot,)] = place.rows("SELECT pg_catalog.pg_export_snapshot()")
    if target.exists():
        raise TokenStorageError(
            f"{target} exists already; nothing was changed.",
            code="bad-path",
            remedy="Give --pg-dump the path of a file that does not exist yet.",
        )
    with naming(target):
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(made, "wb") as file, _parameters(server) as parameters:
            command = [
                *("pg_dump", "--format=custom", f"--snapshot={snapshot}"),
                *(f"--schema={quoted(place.schema)}", "--no-password"),
                f"--dbname={conninfo.make_conninfo(**parameters)}",
            ]
            done = subprocess.run(  # noqa: S603 - a fixed program
                command, stdout=file, stderr=subprocess.PIPE, check=False
            )
            os.fsync(file.fileno())
        if done.returncode:
            detail = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0]
            raise _failed(f"pg_dump failed ({without_secrets(detail)})")
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


@contextmanager
def _parameters(server: Server) -> Iterator[dict[str, Any]]:
    """Yield the parameters of the connection, with the password in a file: others see arguments."""
    parameters = {k: v for k, v in server.parameters.items() if "password" not in k}
    # An error of the block has this frame, too.
    password = hidden(server.parameters.get("password"))
    if not password:
        yield parameters
        return
    with NamedTemporaryFile("w", encoding="utf-8", prefix="token-store-") as file:
        escaped = hidden(password.replace("\\", "\\\\").replace(":", "\\:"))
        file.write(f"*:*:*:*:{escaped.reveal()}\n")
        file.flush()
        yield {**parameters, "passfile": file.name}


def _require_tool(major: int) -> None:
    """Fail unless there is a ``pg_dump`` that can read the server."""
    try:
        asked = subprocess.run(["pg_dump", "--version"], capture_output=True, check=False)  # noqa: S607 - on PATH
    except OSError as error:
        raise _failed(f"pg_dump cannot be started ({error.strerror})") from error
    words = asked.stdout.decode("utf-8", "replace").split()
    version = next((word for word in words if word[:1].isdigit()), "0")
    if int(version.partition(".")[0]) < major:
        raise _failed(f"pg_dump is of version {version}, and the server of {major}")


def _failed(what: str) -> TokenStorageError:
    return TokenStorageError(
        f"The dump before the migration could not be made: {what}; nothing was changed.",
        code="backup-failed",
        remedy="Install the client programs of PostgreSQL of the version of the server or a newer "
        "one, or leave out --pg-dump.",
    )
