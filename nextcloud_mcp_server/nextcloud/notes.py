"""Notes: the REST interface 1 of the app Notes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.account import Account
from nextcloud_mcp_server.nextcloud.connection import Connection, if_match
from nextcloud_mcp_server.nextcloud.paging import ITEMS, Page, text_page

_API: Final = "/index.php/apps/notes/api/v1/notes"

#: The numbers of notes, and the seconds since 1970 of the years with four digits, end here.
_NUMBERS: Final = 2**63
_TIMES: Final = 253_402_300_800

_JSON: Final = {"Accept": "application/json", "Content-Type": "application/json"}


@dataclass(frozen=True)
class Note:
    """A note without its text."""

    id: int
    title: str
    category: str
    modified: datetime
    etag: str
    favorite: bool
    read_only: bool


@dataclass(frozen=True)
class NoteText:
    """A note with a page of its text; ``next`` is the cursor of the following page."""

    note: Note
    text: str
    next: str | None


class Notes:
    """The notes of the account."""

    def __init__(self, connection: Connection, account: Account) -> None:
        self._connection = connection
        self._account = account

    async def search(self, text: str = "", *, cursor: str | None = None) -> Page[Note]:
        """Return the notes with this text in title, category or content; all for an empty text.

        The interface cannot search: 50 notes are read and compared, so a page can be short, and
        even empty, and still have a ``next``.

        Raises:
            NextcloudError: ``app-missing``, or the request failed.
        """
        parameters = {"chunkSize": str(ITEMS)}
        if cursor is not None:
            parameters["chunkCursor"] = cursor
        data, following = await self._send("GET", "", what="notes", parameters=parameters)
        wanted = text.casefold()
        found = []
        # Notes of other chunks can be listed with nothing but their id.
        for item in data if isinstance(data, list) else []:
            if isinstance(item, dict) and "title" in item:
                texts = (item.get(name) for name in ("title", "category", "content"))
                note = _note(item)
                if note and any(wanted in str(value or "").casefold() for value in texts):
                    found.append(note)
        return Page(tuple(found), following)

    async def read(self, note_id: int, *, cursor: str | None = None) -> NoteText:
        """Return a page of a note.

        Raises:
            NextcloudError: ``not-found``, ``app-missing``, or the request failed.
        """
        data, _ = await self._send("GET", _place(note_id), what=f"note {note_id}")
        note = self._note(data)
        text, following = text_page(str(data.get("content") or ""), cursor)
        return NoteText(note, text, following)

    async def create(self, title: str, text: str, *, category: str = "") -> Note:
        """Create a note; Nextcloud changes a title that is in use.

        Raises:
            NextcloudError: ``app-missing``, ``over-quota``, or the request failed.
        """
        body = {"title": title, "content": text, "category": category}
        data, _ = await self._send("POST", "", what="note", body=body)
        return self._note(data)

    async def update(
        self,
        note_id: int,
        *,
        etag: str,
        title: str | None = None,
        text: str | None = None,
        category: str | None = None,
    ) -> Note:
        """Change the version of a note that has this etag; None leaves a part as it is.

        Raises:
            NextcloudError: ``changed``, ``not-found``, ``app-missing``, ``bad-input`` if the app
                is too old to give an etag, or the request failed.
        """
        place = _place(note_id)
        if not etag and not (await self.read(note_id)).note.etag:
            raise errors.note_without_etag()
        given = {"title": title, "content": text, "category": category}
        data, _ = await self._send(
            "PUT",
            place,
            what=f"note {note_id}",
            body={name: value for name, value in given.items() if value is not None},
            headers=if_match(etag),
        )
        return self._note(data)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        parameters: dict[str, str] | None = None,
        body: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[Any, str | None]:
        if not (await self._account.capabilities()).notes:
            raise errors.app_missing("Notes")
        answer = await self._connection.send(
            method,
            _API + path,
            what=what,
            query=parameters,
            headers={**_JSON, **(headers or {})},
            body=json.dumps(body).encode() if body is not None else b"",
            accept={404},
        )
        if answer.status == 404:  # noqa: PLR2004 - Not Found
            # The app answers in JSON. Nextcloud does not, if the app was disabled meanwhile.
            raise errors.app_missing("Notes") if answer.json() is None else errors.not_found(what)
        return answer.json(), answer.headers.get("X-Notes-Chunk-Cursor") or None

    def _note(self, data: object) -> Note:
        if isinstance(data, dict) and (note := _note(data)):
            return note
        raise errors.not_nextcloud(self._connection.server.origin, "a note without an id")


def _place(note_id: int) -> str:
    """Return the path of a note.

    Raises:
        NextcloudError: ``not-found`` for a number that no note has.
    """
    if not 0 <= note_id < _NUMBERS:
        raise errors.not_found("note with this number")
    return f"/{note_id}"


def _note(item: dict[str, Any]) -> Note | None:
    """Return a note; None if it has no number, or one that no note has."""
    number, modified = item.get("id"), item.get("modified")
    if not isinstance(number, int) or not 0 <= number < _NUMBERS:
        return None
    known = modified if isinstance(modified, int) and 0 < modified < _TIMES else 0
    return Note(
        id=number,
        title=str(item.get("title") or ""),
        category=str(item.get("category") or ""),
        modified=datetime.fromtimestamp(known, UTC),
        etag=str(item.get("etag") or "").strip('"'),
        favorite=bool(item.get("favorite")),
        read_only=bool(item.get("readonly")),
    )
