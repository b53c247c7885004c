"""Databases in every state, and a way to run the program as a process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nextcloud_mcp_server
from nextcloud_mcp_server.migrations import upgrade_database
from tests.support.files import root_page

ROOT = Path(nextcloud_mcp_server.__file__).resolve().parents[1]

ONE_GRANT = (
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
    "VALUES ('alice', 'gAAAA', 1, 1)"
)

#: The line about a backup, as a regular expression with the database and its revision.
BACKUP = r"backup: {db}\.backup-\d{{8}}T\d{{6}}\.\d{{6}}Z-{revision}\n"


@dataclass(frozen=True)
class Done:
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


def process(
    *arguments: str,
    cwd: Path,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
    root: Path = ROOT,
    code: str = "",
) -> Done:
    """Run the program, or a program of this code, in a process in ``cwd``, and wait for it."""
    program = ["-c", code] if code else ["-m", "nextcloud_mcp_server"]
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        env=environment(cwd, environ, root),
    )
    return Done(done.returncode, _text(done.stdout), _text(done.stderr))


def environment(
    cwd: Path, environ: Mapping[str, str] | None = None, root: Path = ROOT
) -> dict[str, str]:
    """Return an environment without settings, in which the package can be imported."""
    paths = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "HOME": str(cwd)}
    return {**paths, **(environ or {})}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def execute(path: Path, *statements: str) -> None:
    """Run SQL in ``path``, and leave no ``-wal`` file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of ``query`` in ``path``."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query, parameters).fetchall()


def at(path: Path, revision: str = "head", *statements: str) -> None:
    """Create a database at ``revision`` with one grant, then run ``statements``."""
    upgrade_database(path, revision)
    execute(path, ONE_GRANT, *statements)
    path.with_name(path.name + ".lock").unlink()


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset : offset + len(data)] = data
    path.write_bytes(raw)


def _corrupt(path: Path) -> None:
    at(path)
    _overwrite(path, 100, b"\xff" * 300)


def _truncated(path: Path) -> None:
    at(path)
    path.write_bytes(path.read_bytes()[:5000])


def _write(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.touch(0o600)
        path.write_bytes(content)

    return make


def _at(revision: str, *statements: str) -> Callable[[Path], None]:
    return lambda path: at(path, revision, *statements)


#: How to create a database in each state that a start serves.
SERVED: dict[str, Callable[[Path], None]] = {
    "at-head": _at("head"),
    "behind": _at("007"),
    "pre-alembic": _at("001", "DROP TABLE alembic_version"),
    "no-version-row": _at("001", "DELETE FROM alembic_version"),
    "null-version-row": _at(
        "001",
        "DROP TABLE alembic_version",
        "CREATE TABLE alembic_version (version_num TEXT)",
        "INSERT INTO alembic_version VALUES (NULL)",
    ),
    "narrow": _at("head", "DROP INDEX idx_browser_sessions_user"),
    "untidy": _at("head", "INSERT INTO alembic_version VALUES ('')"),
    "zero-bytes": _write(b""),
    "missing": lambda _path: None,
}

#: How to create a database in each state that a start refuses, with the code of the error.
REFUSED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "newer": ("unknown-revision", _at("head", "UPDATE alembic_version SET version_num = '999'")),
    "escape": (
        "unknown-revision",
        _at("head", "UPDATE alembic_version SET version_num = char(27) || '[2J' || char(10)"),
    ),
    "nul": (
        "unknown-revision",
        _at("head", "UPDATE alembic_version SET version_num = '999' || char(0)"),
    ),
    "two-rows": ("ambiguous-version", _at("head", "INSERT INTO alembic_version VALUES ('003')")),
    "no-grants": ("inconsistent", _at("head", "DROP TABLE refresh_tokens")),
    "foreign": ("foreign", lambda path: execute(path, "CREATE TABLE songs (title TEXT)")),
    "corrupt": ("corrupt", _corrupt),
    "truncated": ("corrupt", _truncated),
    "text": ("not-a-database", _write(b"not a database, but longer than its header is\n" * 9)),
    "dump": ("not-a-database", _write(b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n" * 9)),
}


class Shelf:
    """Databases in every state, created once and copied."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, state: str, path: Path) -> Path:
        """Put a database in ``state`` at ``path``."""
        made = self._folder / state
        if not made.exists() and state != "missing":
            (REFUSED[state][1] if state in REFUSED else SERVED[state])(made)
        if made.exists():
            shutil.copy2(made, path)
        return path


def crash(live: Path, left: Path) -> None:
    """Put at ``left`` the files that a writer of ``live`` leaves if it dies during a write."""
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA cache_size=2")
        connection.execute("BEGIN IMMEDIATE")
        insert = ONE_GRANT.replace("'alice'", "?")
        connection.executemany(insert, [(f"{number:0200}",) for number in range(2000)])
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{live}{suffix}", f"{left}{suffix}")
        connection.execute("ROLLBACK")


def damage(path: Path, table: str) -> Path:
    """Damage the root page of a table, which an inspection does not read."""
    _overwrite(path, root_page(path, table), b"\xff" * 40)
    return path


def replace_lock(kind: str, path: Path) -> tuple[Path, str]:
    """Put a file of this kind where the lock of ``path`` is; return it and what an error says."""
    lock = path.with_name(f"{path.name}.lock")
    lock.unlink(missing_ok=True)
    match kind:
        case "text":
            lock.write_text("somebody's\n")
            return lock, "is the file of another program"
        case "folder":
            lock.mkdir()
        case "link":
            lock.symlink_to(path)
        case _:
            os.mkfifo(lock)
    return lock, "is no regular file"


def fingerprint(path: Path) -> tuple[object, ...]:
    """Return the bytes, mode and modification time of a file, or nothing if it is missing."""
    if not path.exists():
        return ()
    status = path.stat()
    return (path.read_bytes(), status.st_mode, status.st_mtime_ns)


def listing(folder: Path) -> Sequence[str]:
    """Return the names in ``folder``, without the ``-shm`` and ``-wal`` that a reader leaves."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(("-shm", "-wal")))
