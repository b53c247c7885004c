"""Compare stored secrets with the newest entry of the audit log that names each of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, NamedTuple

from nextcloud_mcp_server.auth.audit import (
    SYSTEM,
    AuditEntry,
    Code,
    Signatures,
    code_of,
    key_of,
)
from nextcloud_mcp_server.auth.secrets import digest
from nextcloud_mcp_server.crypto.binding import stored_id
from nextcloud_mcp_server.maintenance.audit.reader import Reader
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.schema.structure import quoted

#: The rows of one page whose entries an index finds, and of one that needs a walk of the log.
_PAGE: Final = 500
_LARGE_PAGE: Final = 10_000


class Subject(NamedTuple):
    """A table with secrets, and which entries name a row of it.

    Attributes:
        table: its name.
        thing: what the events of its deletions end in.
        key: the column of a row that its entries name.
        where: which entries can name one; empty for those of the users of a page.
    """

    table: str
    thing: str
    key: str = "user_id"
    where: str = ""

    @property
    def deletions(self) -> tuple[str, str]:
        """The events after which there is no row."""
        return f"delete_{self.thing}", f"delete_expired_{self.thing}"

    @property
    def page(self) -> int:
        """The number of rows that are read at once."""
        return _LARGE_PAGE if self.where else _PAGE

    def named_by(self, entry: AuditEntry) -> object:
        """Return the key of the row that an entry names."""
        named = {"user_id": entry.user_id, "session_id": entry.resource_id, "id": 1}
        return named[self.key]


SUBJECTS: Final = (
    Subject("refresh_tokens", "refresh_token"),
    Subject("app_passwords", "app_password"),
    Subject("login_flow_sessions", "login_flow"),
    # Without a user before the login: no index leads to their entries.
    Subject("oauth_sessions", "oauth_session", "session_id", "resource_type = 'oauth_session'"),
    Subject("oauth_clients", "oauth_client", "id", f"user_id = '{SYSTEM}'"),
)


class Judgement(Enum):
    """What the log says about a secret."""

    MATCHES = auto()
    #: It differs from its newest entry, or that is a deletion.
    CHANGED = auto()
    #: Its newest entry was made with a key that was not given.
    UNVERIFIED = auto()
    #: No entry names it.
    UNNAMED = auto()


class Judged(NamedTuple):
    """A secret, and what the log says about it.

    ``entry`` is the id of the entry that decides, and whether that is a deletion; ``key`` the id
    of the key of a newer one that cannot be checked.
    """

    table: str
    column: str
    row: str
    judgement: Judgement
    entry: int | None = None
    deleted: bool = False
    key: str = ""


#: A row by the name that entries have for it, and a column.
_Place = tuple[object, str]


@dataclass(slots=True)
class _Page:
    subject: Subject
    known: Signatures
    #: The digest of each secret that no entry has decided yet. Two rows can have one name: a
    #: session whose id a released version has stored, and one with its hash.
    pending: dict[_Place, list[str]] = field(default_factory=dict)
    #: The keys that were not given, of entries that are newer than the one that decides.
    closed: dict[_Place, str] = field(default_factory=dict)
    decided: list[Judged] = field(default_factory=list)

    def add(self, key: object, columns: Sequence[str], values: Sequence[object]) -> None:
        """Add a row."""
        name = stored_id(key) if self._is_session and isinstance(key, str | bytes) else key
        for column, value in zip(columns, values, strict=True):
            if value is not None:
                stored = digest(self.subject.table, column, value)
                self.pending.setdefault((name, column), []).append(stored)

    @property
    def _is_session(self) -> bool:
        return self.subject.key == "session_id"

    def decide(self, entry: AuditEntry) -> None:
        """Compare the secrets that an entry names. The newest entry comes first."""
        deleted = entry.event in self.subject.deletions
        stated = {part.partition("=")[0]: part for part in str(entry.digest or "").split(" ")}
        name = self.subject.named_by(entry)
        code: Code | None = None
        for column in secrets_of(self.subject.table):
            part = stated.get(f"{self.subject.table}.{column}")
            place = name, column
            if place not in self.pending or not (deleted or part):
                continue
            code = code or code_of(entry, self.known)
            # The command that deletes what is expired may have had no key: then there is no row.
            is_gone = code is Code.UNSIGNED and self.known.is_later(entry)
            if code is Code.UNKNOWN:
                self.closed.setdefault(place, key_of(entry))
            elif code is Code.RIGHT or is_gone:
                for stored in self.pending.pop(place):
                    same = stored == part and not deleted
                    self._add(place, same, entry.id, deleted)

    def _add(self, place: _Place, same: bool, entry: int, deleted: bool) -> None:
        key = self.closed.get(place, "")
        kept = Judgement.UNVERIFIED if key else Judgement.MATCHES
        judgement = kept if same else Judgement.CHANGED
        table = self.subject.table
        self.decided.append(Judged(table, place[1], str(place[0]), judgement, entry, deleted, key))

    def result(self) -> list[Judged]:
        """Return every secret of the page."""
        for place, stored in self.pending.items():
            key = self.closed.get(place, "")
            judgement = Judgement.UNVERIFIED if key else Judgement.UNNAMED
            row = Judged(self.subject.table, place[1], str(place[0]), judgement, key=key)
            self.decided += [row] * len(stored)
        return self.decided


def judged(
    reader: Reader, known: Signatures, subject: Subject, first: int | None
) -> Generator[list[Judged]]:
    """Yield what the log says about each secret of a table, in pages.

    A page and its entries are read as of one moment: servers may write meanwhile.

    Args:
        reader: of the database.
        known: checks the entries.
        subject: the table.
        first: no walk of the log goes below this id; None to read all.
    """
    there = reader.columns(subject.table)
    columns = [column for column in secrets_of(subject.table) if column in there]
    if not columns or subject.key not in there:
        return
    after: Any = None
    while True:
        with reader.source.moment():
            page = _Page(subject, reader.renewed(known))
            rows = list(_rows(reader, subject, columns, after))
            for _, key, *values in rows:
                page.add(key, columns, values)
            with closing(_entries(reader, page, first)) as entries:
                for entry in entries:
                    page.decide(entry)
                    if not page.pending:
                        break
        yield page.result()
        if len(rows) < subject.page:
            return
        after = rows[-1][0]


def _rows(
    reader: Reader, subject: Subject, columns: Sequence[str], after: Any
) -> Iterator[Sequence[Any]]:
    at = reader.source.rowid or quoted(subject.key)
    names = ", ".join(map(quoted, (subject.key, *columns)))
    where = "" if after is None else f"WHERE {at} > {reader.source.mark} "
    sql = (
        f"SELECT {at}, {names} FROM {reader.source.table(subject.table)} {where}"  # noqa: S608 - quoted
        f"ORDER BY {at} LIMIT {subject.page}"
    )
    return reader.source.rows(sql, () if after is None else (after,))


def _entries(reader: Reader, page: _Page, first: int | None) -> Generator[AuditEntry]:
    """Yield the entries that can name a row of the page, newest first."""
    subject, mark = page.subject, reader.source.mark
    names = list(dict.fromkeys(name for name, _ in page.pending if _is_text(name)))
    if not page.pending or not reader.is_signed or not (subject.where or names):
        return
    table = f"{subject.table}."
    which = f"(substr(digest, 1, {len(table)}) = {mark} OR event IN ({mark}, {mark}))"
    given: list[Any] = [table, *subject.deletions]
    if subject.where:
        where, order = subject.where, "id"
        if first is not None:
            where = f"{where} AND id > {first:d}"
    else:
        # Not in the order of the key: that would be a walk of the whole log for each page.
        where, order = f"user_id IN ({', '.join([mark] * len(names))})", "id + 0"
        given = [*names, *given]
    yield from reader.entries(f"WHERE {where} AND {which} ORDER BY {order} DESC", given)


def _is_text(name: object) -> bool:
    """Return whether an entry can have this name, and a statement can ask for it."""
    if not isinstance(name, str):
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
