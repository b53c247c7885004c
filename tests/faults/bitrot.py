"""Databases with one wrong byte or a missing end, and the result of a start on them."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrations import upgrade_database
from tests.faults.injection import copy_database
from tests.support import shapes
from tests.support.contents import KEY, NOW
from tests.support.invariants import Secrets, read_through_the_store, secrets_in
from tests.support.snapshot import snapshot

Encrypt = Callable[[str], bytes]

#: Damages a copy of a specimen and returns a description.
Damage = Callable[[random.Random, Path], str]

_INSERT: Final = (
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
    f"VALUES (?, ?, {NOW}, {NOW})"
)

#: Users whose ids are further apart than one flipped bit: 'Carol' and 'carol' are not.
TOKENS: Final = {f"user-{n:03}-{n * n:05}": f"token of {n:03}" for n in range(24)}


@dataclass(frozen=True)
class Specimen:
    """An intact database with a filled ``-wal``, which is copied and damaged."""

    path: Path
    secrets: Secrets

    def put(self, folder: Path) -> Path:
        """Copy it into the emptied ``folder``."""
        return copy_database(self.path, folder)


def at_head(folder: Path, encrypt: Encrypt) -> Specimen:
    """A specimen at head."""
    path = folder / "head.db"
    shapes.at("010").write(path)
    upgrade_database(path)
    return _specimen(path, encrypt)


def old(folder: Path, encrypt: Encrypt) -> Specimen:
    """A specimen at revision 005, which a start upgrades."""
    path = folder / "old.db"
    shapes.at("005", "raw").write(path)
    return _specimen(path, encrypt)


def _specimen(path: Path, encrypt: Encrypt) -> Specimen:
    copy = path.with_name("copy-" + path.name)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "DELETE FROM refresh_tokens WHERE user_id NOT IN ('alice', 'Ünï-çødé-用户-🙂')"
        )
        connection.execute("PRAGMA journal_mode=WAL")
        for number, (user, token) in enumerate(TOKENS.items()):
            if number == len(TOKENS) // 2:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute(_INSERT, (user, encrypt(token)))
        # Closing the last connection would empty the -wal.
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    mine = {("refresh_tokens", user, "encrypted_token"): token for user, token in TOKENS.items()}
    return Specimen(copy, {**secrets_in(snapshot(copy), KEY), **mine})


def flip(rng: random.Random, path: Path) -> str:
    """Change one bit, or one whole byte, of the database or its ``-wal``."""
    file = rng.choice((path, path.with_name(path.name + "-wal")))
    content = bytearray(file.read_bytes())
    offset = rng.randrange(len(content))
    mask = rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
    content[offset] ^= mask
    file.write_bytes(content)
    return f"{file.name}: byte {offset} ^ {mask:#04x}"


def cut(rng: random.Random, path: Path) -> str:
    """Truncate the database or its ``-wal``, often at the end of a page."""
    file = rng.choice((path, path, path.with_name(path.name + "-wal")))
    size = file.stat().st_size
    length = rng.randrange(1, size)
    if rng.random() < 0.5:
        length = max(1, length // 4096 * 4096)
    with file.open("r+b") as stream:
        stream.truncate(length)
    return f"{file.name}: {length} of {size} bytes"


def index_flips(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield each bit flip with which the index of the refresh tokens may lead to another row.

    Yields the user, the byte of the file and the mask; runs a checkpoint first.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = (
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_refresh_tokens_1'"
        )
        [(root,)] = connection.execute(query)
    content = path.read_bytes()
    begin = (root - 1) * 4096
    for user in TOKENS:
        # A cell of the index is the id, followed by the rowid.
        found = content.index(user.encode(), begin, begin + 4096) + len(user)
        yield from ((user, found, 1 << bit) for bit in range(6))


@dataclass
class Results:
    """The results of starts on damaged databases.

    Attributes:
        starts: the number of starts by their action or error.
        reads: the number of reads of a secret by their result.
        wrong: every wrong plain text, with its damage.
        created: every damage after which a start created a new database.
    """

    starts: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    created: list[str] = field(default_factory=list)

    async def add(self, path: Path, secrets: Secrets, damage: str) -> None:
        """Start on a damaged database and read each of ``secrets``.

        Raises:
            Exception: other than :class:`TokenStorageError`, with the damage as a note.
        """
        try:
            async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
                assert storage.outcome is not None
                self.starts[storage.outcome.action.value] += 1
                if storage.outcome.action is Action.CREATE:
                    self.created.append(damage)
                for name, secret in secrets.items():
                    self._record(await _answer(storage, {name: secret}), damage)
        except TokenStorageError as error:
            self.starts[error.code] += 1
        except Exception as error:
            error.add_note(damage)
            raise

    def _record(self, answer: str, damage: str) -> None:
        self.reads[answer.partition(":")[0]] += 1
        if answer.startswith("wrong"):
            self.wrong.append(f"{damage}: {answer}")


async def _answer(storage: RefreshTokenStorage, one: Mapping[tuple[str, str, str], str]) -> str:
    try:
        found = await read_through_the_store(storage, one)
    except TokenStorageError as error:
        return error.code
    if not found:
        return "not there"
    return "right" if found == one else f"wrong: {found} for {one}"
