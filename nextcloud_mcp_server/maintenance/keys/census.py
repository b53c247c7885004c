"""Count the secrets of a database by key and table, and list those that no key opens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.keys.reader import Secret, reading
from nextcloud_mcp_server.migrate.classify import TEMPORARY
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.settings import Settings


class Unopened(NamedTuple):
    """A secret that no key opens."""

    table: str
    column: str
    row: str


@dataclass(frozen=True, slots=True)
class Census:
    """The number of secrets by fingerprint and table, and those that no key opens.

    ``keys`` are the fingerprints of the available keys, newest first; empty without a key.
    """

    database: Path | ServerUrl
    exists: bool
    keys: tuple[str, ...]
    opened: Mapping[tuple[str, str], int]
    unopened: tuple[Unopened, ...]

    def by_table(self, key: str) -> dict[str, int]:
        """Return the number of secrets that ``key`` opens, by table."""
        return {table: number for (one, table), number in self.opened.items() if one == key}

    @property
    def older(self) -> dict[str, int]:
        """The number of secrets by key, for every key but the newest that opens any."""
        by_key = {key: sum(self.by_table(key).values()) for key in self.keys[1:]}
        return {key: number for key, number in by_key.items() if number}


def count_secrets(settings: Settings, report: Reporter = silent) -> Census:
    """Count the secrets by key and table. Changes nothing.

    Raises:
        TokenStorageError: ``malformed-key`` or ``key-missing`` for a key that cannot be read;
            the state's own code for a file without a table of secrets.
    """
    database = connect(settings.database)
    database.check()
    return take_census(database, find_keyring(settings, database.location), report)


def take_census(database: Database, keyring: Keyring | None, report: Reporter) -> Census:
    """Count the secrets of ``database`` by the keys of ``keyring``; see :func:`count_secrets`."""
    opened: Counter[tuple[str, str]] = Counter()
    unopened: list[Unopened] = []
    seen = database.inspect()
    inspection = Inspection.of(database, seen)
    refusal, exists = inspection.refusal, inspection.exists
    if exists:
        with reading(database, seen.structure, inspection.finding.adopted) as reader:
            if refusal is not None and not reader.columns:
                raise refusal
            if reader.columns:
                inspection.require_usable()
            total = reader.total()
            for table_of, column in reader.columns:
                table = table_of.removeprefix(TEMPORARY)
                for secret in chain.from_iterable(reader.pages(table_of, column)):
                    key = None if keyring is None else keyring.key_of(secret.value)
                    if key is None:
                        unopened.append(Unopened(table, column, _named(secret)))
                    else:
                        opened[key, table] += 1
                    done = opened.total() + len(unopened)
                    report("counting the secrets", done, total, "secrets")
    elif refusal is not None:
        raise refusal
    keys = () if keyring is None else tuple(dict.fromkeys(keyring.fingerprints))
    return Census(database.location, exists, keys, dict(opened), tuple(unopened))


def _named(secret: Secret) -> str:
    # The key of a table of an early release can be NULL.
    return f"row {secret.at}" if secret.name is None else str(secret.name)
