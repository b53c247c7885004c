"""Verify the audit log, and every stored secret against the newest entry that names it.

An entry counts if its code is right: without the key nobody can make another one. So a secret that
was exchanged, put back or written by somebody else differs from its newest entry. Who also deletes
that entry, and everything after the state that is put back, leaves no trace here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from nextcloud_mcp_server.auth.audit import Code, Signatures, code_of, key_of
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyfile import find_keyring
from nextcloud_mcp_server.crypto.registration import (
    FORMER,
    INTRODUCED,
    PRIMARY,
    RETIRED,
    given_primary,
    wrong_key,
)
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.audit.listing import Listed, name_of
from nextcloud_mcp_server.maintenance.audit.reader import LOG, Reader, reading
from nextcloud_mcp_server.maintenance.audit.rows import (
    SUBJECTS,
    Judged,
    Judgement,
    judged,
)
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.settings import Settings

T = TypeVar("T")

_PROMOTE: Final = "promote_key"
#: The states that a key can have after each event; the last one that was promoted is primary.
_STATES: Final = {
    "introduce_key": (INTRODUCED, FORMER),
    _PROMOTE: (PRIMARY, FORMER),
    "retire_key": (RETIRED,),
}

#: The entries of one page.
PAGE: Final = 1000

#: The most problems of a kind that are kept: the number of all is counted.
MOST_LISTED: Final = 1000


class Changed(NamedTuple):
    """A secret that differs from the newest entry that names it, and how."""

    table: str
    column: str
    row: str
    reason: str


@dataclass(slots=True)
class Problems(Generic[T]):
    """The number of problems of a kind, and the first :data:`MOST_LISTED` of them."""

    number: int = 0
    first: list[T] = field(default_factory=list)

    def add(self, problem: T) -> None:
        """Count a problem."""
        self.number += 1
        if len(self.first) < MOST_LISTED:
            self.first.append(problem)


@dataclass(slots=True)
class Verified:
    """The result for the entries, then for the secrets.

    Attributes:
        database: its place.
        exists: whether there is one with an audit log.
        keys: the fingerprints of the given keys.
        right: the number of entries whose code is right.
        unsigned: of those without a code.
        unsigned_later: of those among them that are newer than one with a code: what was expired
            was deleted by a command without a key.
        unknown_keys: by key that was not given, the number of entries that it has signed.
        wrong: the entries that were forged or changed.
        matching: the number of secrets that are what their newest entry says.
        unnamed: of those that no entry names: they are older than the log, a released version has
            stored them, or they are of a sign-in that has no user yet.
        unverified: of those whose newest entry was made with a key that was not given.
        changed: the secrets that were exchanged, put back or forged.
        complete: whether everything was read.
    """

    database: Path | ServerUrl
    keys: tuple[str, ...]
    exists: bool = True
    right: int = 0
    unsigned: int = 0
    unsigned_later: int = 0
    unknown_keys: Counter[str] = field(default_factory=Counter)
    wrong: Problems[Listed] = field(default_factory=Problems)
    matching: int = 0
    unnamed: int = 0
    unverified: int = 0
    changed: Problems[Changed] = field(default_factory=Problems)
    complete: bool = True

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.wrong.number or self.changed.number)

    @property
    def entries(self) -> int:
        """The number of entries."""
        return self.right + self.unsigned + self.unknown_keys.total() + self.wrong.number

    @property
    def secrets(self) -> int:
        """The number of secrets."""
        return self.matching + self.unnamed + self.unverified + self.changed.number


def verify(settings: Settings, report: Reporter = silent, *, limit: int | None = None) -> Verified:
    """Verify the audit log and the secrets. Changes nothing, and waits for nobody.

    Args:
        settings: name the database and the keys.
        report: receives the progress.
        limit: the most entries (the newest) and the most rows that are read; None for all.

    Raises:
        TokenStorageError: ``key-missing`` if there are signed entries and no key, ``wrong-key``
            if the given ones have signed none of them; what
            :func:`~.reader.reading` and :func:`~..crypto.keyfile.find_keyring` raise.
    """
    database = connect(settings.database)
    database.check()
    keyring = find_keyring(settings, database.location)
    found = Verified(database.location, () if keyring is None else keyring.fingerprints)
    with reading(database) as (_, reader):
        if reader is None:
            found.exists = False
            return found
        first = _first(reader, limit)
        found.complete = first is None
        with reader.source.moment():
            known = reader.signatures(keyring)
        _verify_entries(reader, known, found, first, report)
        if keyring is None and found.unknown_keys:
            raise TokenStorageError(
                f"The audit log of {database} is signed, and no key was given to verify it.",
                code="key-missing",
                remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE, as for a server.",
            )
        if keyring is not None and found.unknown_keys and not found.right:
            with reader.source.moment():
                raise wrong_key(reader.keys(), keyring, str(database))
        _verify_keys(reader, known, found, first)
        for page in chain.from_iterable(judged(reader, known, one, first) for one in SUBJECTS):
            for secret in page:
                _count(secret, found, known.names)
            report(f"verifying the secrets ({found.secrets} of them)")
            if limit is not None and found.secrets >= limit:
                found.complete = False
                break
    return found


def _first(reader: Reader, limit: int | None) -> int | None:
    """Return the id before the newest ``limit`` entries; None if all are read."""
    if limit is None:
        return None
    sql = f"SELECT id FROM {reader.source.table(LOG)} ORDER BY id DESC LIMIT 1 OFFSET {limit:d}"  # noqa: S608 - quoted
    with reader.source.moment():
        rows = list(reader.source.rows(sql))
    return int(rows[0][0]) if rows else None


def _verify_entries(
    reader: Reader, known: Signatures, found: Verified, first: int | None, report: Reporter
) -> None:
    after = -(2**63) if first is None else first
    rest = f"WHERE id > {reader.source.mark} ORDER BY id LIMIT {PAGE}"
    read = PAGE
    # A moment for each page: a long one would hold others up.
    while read == PAGE:
        read = 0
        with reader.source.moment():
            known = reader.renewed(known)
            names = known.names
            for entry in reader.entries(rest, [after]):
                read, after = read + 1, entry.id
                code = code_of(entry, known)
                if code is Code.WRONG:
                    found.wrong.add(Listed(entry, code, name_of(entry, names)))
                elif code is Code.UNKNOWN:
                    found.unknown_keys[names.get(key_of(entry), key_of(entry))] += 1
                elif code is Code.UNSIGNED:
                    found.unsigned += 1
                    found.unsigned_later += known.is_later(entry)
                else:
                    found.right += 1
        report(f"verifying the audit log ({found.entries} entries)")


def _verify_keys(reader: Reader, known: Signatures, found: Verified, first: int | None) -> None:
    """Compare the registered keys with what the primary one has signed, and with the log."""
    events = ", ".join([reader.source.mark] * len(_STATES))
    rest = f"WHERE event IN ({events}) AND id > {reader.source.mark} ORDER BY id DESC"
    with reader.source.moment():
        keys = reader.keys()
        entries = list(reader.entries(rest, [*_STATES, -(2**63) if first is None else first]))
    if not keys or known.keyring is None:
        return
    try:
        given_primary(keys, known.keyring)
    except TokenStorageError as error:
        if error.code == "keys-changed":
            what = "it is not what the key that encrypts has signed"
            found.changed.add(Changed("keys", "check", "every key", what))
        # Without the primary key nothing can be said.
        return
    # An older table that was put back whole is signed, too.
    known = Signatures.of(known.keyring, keys, known.first)
    rows = {(f"{row.kind}_key", row.fingerprint): row for row in keys}
    decided: set[tuple[str | None, str | None]] = set()
    promoted = False
    for entry in entries:
        key, code = (entry.resource_type, entry.resource_id), code_of(entry, known)
        if key not in rows or code not in {Code.RIGHT, Code.UNKNOWN}:
            continue
        allowed = _STATES[entry.event]
        if entry.event == _PROMOTE and not promoted:
            allowed, promoted = (PRIMARY,), True
        row = rows[key]
        if key not in decided and code is Code.RIGHT and row.state not in allowed:
            reason = f"its state is {row.state}, and the last entry is {entry.event} ({entry.id})"
            found.changed.add(Changed("keys", "state", f"{row.fingerprint} {row.kind}", reason))
        decided.add(key)


def _count(secret: Judged, found: Verified, names: Mapping[str, str]) -> None:
    if secret.judgement is Judgement.MATCHES:
        found.matching += 1
    elif secret.judgement is Judgement.UNNAMED:
        found.unnamed += 1
    elif secret.judgement is Judgement.UNVERIFIED:
        found.unverified += 1
    else:
        found.changed.add(Changed(secret.table, secret.column, secret.row, _reason(secret, names)))


def _reason(secret: Judged, names: Mapping[str, str]) -> str:
    what = "was deleted" if secret.deleted else "was stored as another value"
    reason = f"it {what} (entry {secret.entry})"
    if secret.key:
        key = names.get(secret.key, secret.key)
        return f"{reason}, and a newer entry is of key {key}, which was not given"
    return reason
