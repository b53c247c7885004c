"""The measured databases: created once in a run, and copied."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.schema.secrets import secrets_of
from tests.bench.harness import Pairs, compare, environment, process

#: The key of every measured database.
KEY: Final = "bWVhc3VyZWQtd2l0aC10aGlzLWtleS1ub3RoaW5nLSE="

_KEY: Final = Keyring([KEY]).keys[0]
_SECRET: Final = secrets_of("refresh_tokens")["encrypted_token"]

TOKEN: Final = "a-refresh-token-of-the-usual-length-" * 4

#: The moment at which every row was made.
THEN: Final = 1_750_000_000

_FILL: Final = """
WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?)
INSERT INTO refresh_tokens (user_id, encrypted_token, expires_at, created_at, updated_at,
                            flow_type, token_audience, scopes)
SELECT printf('user-%07d', n), encrypted(printf('user-%07d', n)), ?, ?, ?, 'hybrid', 'nextcloud',
       '["openid", "offline_access"]'
FROM numbers
"""


def user(number: int) -> str:
    """Return a user id of a measured database."""
    return f"user-{number:07d}"


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work.

    Attributes:
        processes: pairs of child processes.
        rounds: pairs of calls within this process.
        calls: calls in a row that are measured as one.
        rows: rows of the small, the middle and the large database.
        large: pairs of work on the large one.
        tasks, starts: how many at once.
        warm: pairs that are run before, and not counted.
        sessions: how many people call the server at once.
        session_calls: how many calls each of them makes.
    """

    processes: int = 11
    rounds: int = 15
    calls: int = 20
    rows: tuple[int, ...] = (10, 1_000, 1_000_000)
    large: int = 3
    tasks: int = 64
    starts: int = 16
    warm: int = 1
    sessions: int = 500
    session_calls: int = 10


FULL: Final = Scale()

#: For a test that the benchmarks run.
TINY: Final = Scale(
    processes=1,
    rounds=1,
    calls=1,
    rows=(5, 6),
    large=1,
    tasks=4,
    starts=2,
    warm=0,
    sessions=4,
    session_calls=3,
)


@dataclass
class Place:
    """The folder of the measured databases, and the scale."""

    folder: Path
    scale: Scale = FULL
    _made: dict[tuple[int, bool], Path] = field(default_factory=dict)

    def template(self, rows: int, *, released: bool = False) -> Path:
        """Return a closed database at head with ``rows`` refresh tokens; do not write to it.

        They are encrypted as the store does, or as released versions did.
        """
        name = rows, released
        if name not in self._made:
            path = self.folder / f"template-{rows}-{released}.db"
            asyncio.run(_create(path))
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous=OFF")
                connection.execute("BEGIN")
                connection.create_function("encrypted", 1, _encryption(released=released))
                connection.execute(_FILL, (rows, THEN + 10**9, THEN, THEN))
                connection.execute("COMMIT")
            self._made[name] = path
        return self._made[name]

    def database(self, name: str, rows: int | None = None, *, released: bool = False) -> Path:
        """Copy a template (default: the middle one) to ``name``.db."""
        rows = self.scale.rows[1] if rows is None else rows
        path = self.folder / f"{name}.db"
        remove(path)
        # With its mode: a file that others can read makes the store warn.
        shutil.copy(self.template(rows, released=released), path)
        return path


def processes(base: Sequence[str], ours: Sequence[str], scale: Scale) -> Pairs:
    """Compare two commands as child processes."""
    clocks = process(base, environment()), process(ours, environment())
    return compare(*clocks, scale.processes, warm=scale.warm)


def remove(path: Path) -> None:
    """Delete a database and the files beside it."""
    for found in path.parent.glob(f"{path.name}*"):
        found.unlink()


def encrypted(who: str) -> bytes:
    """Return the token of a user as the store encrypts it."""
    row = {"user_id": who, "token_audience": "nextcloud"}
    return _KEY.seal(TOKEN.encode(), binding(_SECRET, row))


def _encryption(*, released: bool) -> Callable[[str], bytes]:
    if not released:
        return encrypted
    text = _KEY.encrypt_fernet(TOKEN.encode())
    return lambda _: text


async def _create(path: Path) -> None:
    """Create a database whose key is registered, with no token."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("first", TOKEN)
        await storage.delete_refresh_token("first")
