"""Files: list, search, read, write, move, delete to the trash bin, and share by a link."""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from unicodedata import normalize

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.account import Account, ocs
from nextcloud_mcp_server.nextcloud.addresses import DAV, quoted, segments
from nextcloud_mcp_server.nextcloud.connection import Connection, bare_etag, if_match
from nextcloud_mcp_server.nextcloud.dav import Resource, document, escaped, propfind, props, query
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.paging import CHARACTERS, ITEMS, Page, offset_of, page

#: Bytes of one page of text: a character has up to four in UTF-8.
_PAGE: Final = 4 * CHARACTERS

_PROPERTIES: Final = (
    "d:resourcetype", "d:getcontentlength", "d:getcontenttype", "d:getetag", "d:getlastmodified",
    "oc:fileid", "oc:size",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A file or a folder. ``path`` begins without a slash; ``size`` is in bytes."""

    path: str
    name: str
    is_folder: bool
    size: int
    etag: str
    mime: str
    modified: datetime | None
    id: str


@dataclass(frozen=True)
class FileText:
    """A page of a text file; ``next`` is the cursor of the following page, None on the last."""

    path: str
    text: str
    etag: str
    mime: str
    size: int
    next: str | None


@dataclass(frozen=True)
class Written:
    """The path and the new etag of what was written."""

    path: str
    etag: str


@dataclass(frozen=True)
class ShareLink:
    """A public link for reading; anybody who has the URL can open it."""

    id: str
    url: str
    path: str
    expires: str | None


class Files:
    """The files of the account. Paths are relative to its root folder, which is ``""``."""

    def __init__(self, connection: Connection, account: Account) -> None:
        self._connection = connection
        self._account = account

    async def _path(self, names: tuple[str, ...]) -> str:
        user = await self._account.user()
        return quoted("files", user.id, *names)

    async def list(self, path: str = "", *, cursor: str | None = None) -> Page[Entry]:
        """Return the entries of a folder, folders first, by name.

        Raises:
            NextcloudError: ``not-found``, ``bad-input`` for a file, or the request failed.
        """
        names = segments(path)
        found = await propfind(
            self._connection, await self._path(names), _PROPERTIES, depth=1, what=_label(names)
        )
        entries = [_entry(resource) for resource in found]
        if not any(entry.is_folder for entry in entries if entry.path == "/".join(names)):
            raise errors.bad_input(
                f"{path!r} is a file, not a folder.", "Read it, or list the folder that has it."
            )
        below = [entry for entry in entries if entry.path != "/".join(names)]
        below.sort(key=lambda entry: (not entry.is_folder, entry.name.casefold(), entry.name))
        return page(below, cursor)

    async def search(self, name: str, *, cursor: str | None = None) -> Page[Entry]:
        """Return the files and folders whose name contains this text, the newest first.

        Raises:
            NextcloudError: ``bad-input`` for an empty name, or the request failed.
        """
        if not name.strip():
            raise errors.bad_input("The text to search for is empty.", "Give a part of a name.")
        start = offset_of(cursor)
        scope = await self._path(())
        body = document(
            "d:searchrequest",
            f"<d:basicsearch><d:select>{props(*_PROPERTIES)}</d:select>"
            f"<d:from><d:scope><d:href>{escaped(scope)}</d:href><d:depth>infinity</d:depth>"
            "</d:scope></d:from><d:where><d:like><d:prop><d:displayname/></d:prop>"
            f"<d:literal>{escaped(_like(name))}</d:literal></d:like></d:where>"
            "<d:orderby><d:order><d:prop><d:getlastmodified/></d:prop><d:descending/></d:order>"
            # In any other namespace Nextcloud ignores `firstresult`.
            f"</d:orderby><d:limit><d:nresults>{ITEMS + 1}</d:nresults>"
            f"<sd:firstresult>{start}</sd:firstresult></d:limit></d:basicsearch>",
        )
        found = await query(self._connection, "SEARCH", "/", body, what="search")
        entries = tuple(_entry(resource) for resource in found)
        more = len(entries) > ITEMS
        return Page(entries[:ITEMS], str(start + ITEMS) if more else None)

    async def stat(self, path: str) -> Entry:
        """Return one file or folder.

        Raises:
            NextcloudError: ``not-found``, or the request failed.
        """
        names = segments(path)
        found = await propfind(
            self._connection, await self._path(names), _PROPERTIES, depth=0, what=_label(names)
        )
        if not found:
            raise errors.not_found(_label(names))
        return _entry(found[0])

    async def read(self, path: str, *, cursor: str | None = None) -> FileText:
        """Return a page of a text file. All pages are of one version of the file.

        Raises:
            NextcloudError: ``not-text``, ``changed`` if the file changed since the first page,
                ``bad-input`` for a folder, or the request failed.
        """
        start, _, version = (cursor or "").partition(":")
        offset = offset_of(start or None)
        entry = await self.stat(path)
        label = _label(segments(path))
        if entry.is_folder:
            raise errors.bad_input(f"{path or '/'!r} is a folder, not a file.", "List it instead.")
        if version and version != entry.etag:
            raise errors.changed(label)
        content = b""
        if offset < entry.size:
            content = await self._range(path, offset, label)
        text, used = _decoded(content, first=offset == 0)
        if text is None:
            raise errors.not_text(label)
        end = offset + used
        following = f"{end}:{entry.etag}" if end < entry.size and used else None
        return FileText(entry.path, text, entry.etag, entry.mime, entry.size, following)

    async def _range(self, path: str, offset: int, label: str) -> bytes:
        answer = await self._connection.send(
            "GET",
            DAV + await self._path(segments(path)),
            what=label,
            headers={"Range": f"bytes={offset}-{offset + _PAGE - 1}"},
            cut=_PAGE,
        )
        if offset and answer.status != 206:  # noqa: PLR2004 - Partial Content
            raise errors.not_nextcloud(self._connection.server.origin, "ranges are not supported")
        return answer.body

    async def write(self, path: str, text: str, *, etag: str | None = None) -> Written:
        """Create a file, or overwrite the version that has this etag.

        Missing parent folders are created with a new file.

        Raises:
            NextcloudError: ``exists`` without an etag, ``changed`` with an old one,
                ``over-quota``, or the request failed.
        """
        names = _not_root(path)
        label = _label(names)
        if etag is not None:
            headers = if_match(etag)
        else:
            headers = {"If-None-Match": "*"}
            await self._make(names[:-1])
        answer = await self._connection.send(
            "PUT",
            DAV + await self._path(names),
            what=label,
            headers={**headers, "Content-Type": "application/octet-stream"},
            body=_encoded(text),
            accept={412},
        )
        if answer.status == 412:  # noqa: PLR2004 - Precondition Failed
            raise errors.exists(label) if etag is None else errors.changed(label)
        return Written("/".join(names), answer.etag)

    async def make_folder(self, path: str) -> str:
        """Create a folder and its missing parents, and return its path; it may exist.

        Raises:
            NextcloudError: ``exists`` if there is a file of this name, or the request failed.
        """
        names = _not_root(path)
        await self._make(names)
        return "/".join(names)

    async def _make(self, names: tuple[str, ...]) -> None:
        # From the deepest that is there: usually that is the folder itself.
        missing: list[tuple[str, ...]] = []
        while names:
            try:
                entry = await self.stat("/".join(names))
            except NextcloudError as error:
                if error.code != "not-found":
                    raise
                missing.append(names)
                names = names[:-1]
                continue
            if not entry.is_folder:
                raise errors.exists(_label(names))
            break
        for folder in reversed(missing):
            # 405: somebody else created it meanwhile.
            await self._connection.send(
                "MKCOL", DAV + await self._path(folder), what=_label(folder), accept={405}
            )

    async def move(self, path: str, target: str) -> str:
        """Move or rename a file or a folder, and return its new path. Nothing is overwritten.

        Raises:
            NextcloudError: ``exists``, ``not-found``, or the request failed.
        """
        names, wanted = _not_root(path), _not_root(target)
        await self._make(wanted[:-1])
        destination = self._connection.server.url(DAV + await self._path(wanted))
        answer = await self._connection.send(
            "MOVE",
            DAV + await self._path(names),
            what=_label(names),
            headers={"Destination": destination, "Overwrite": "F"},
            accept={412},
        )
        if answer.status == 412:  # noqa: PLR2004 - Precondition Failed
            raise errors.exists(_label(wanted))
        return "/".join(wanted)

    async def delete(self, path: str, *, etag: str | None = None) -> None:
        """Move a file or a folder to the trash bin.

        Raises:
            NextcloudError: ``no-trash``, ``changed`` for an old etag, ``not-found``, or the
                request failed.
        """
        names = _not_root(path)
        if not (await self._account.capabilities()).files_trash:
            raise errors.no_trash()
        headers: dict[str, str] = {}
        if etag is not None:
            headers = if_match(etag)
            entry = await self.stat(path)
            if entry.etag != etag:
                raise errors.changed(_label(names))
            if entry.is_folder:
                # Nextcloud compares the etags of files alone, and refuses it for any folder.
                headers = {}
        await self._connection.send(
            "DELETE", DAV + await self._path(names), what=_label(names), headers=headers
        )

    async def share(
        self, path: str, *, expires: date | None = None, password: str | None = None
    ) -> ShareLink:
        """Create a public link for reading a file or a folder.

        Raises:
            NextcloudError: ``forbidden`` if links are not allowed, or need a password or an
                expiry; ``not-found``, or the request failed.
        """
        names = _not_root(path)
        if not (await self._account.capabilities()).public_links:
            raise errors.app_missing("File sharing by public links")
        wanted = {"path": f"/{'/'.join(names)}", "shareType": 3, "permissions": 1}
        if expires is not None:
            wanted["expireDate"] = expires.isoformat()
        if password is not None:
            wanted["password"] = password
        # So that a 404 below is about something else, like a day in the past.
        await self.stat(path)
        data = await ocs(
            self._connection,
            "POST",
            "/apps/files_sharing/api/v1/shares",
            what=_label(names),
            body=json.dumps(wanted).encode(),
            found=True,
        )
        until = data.get("expiration")
        return ShareLink(
            str(data.get("id", "")),
            str(data.get("url", "")),
            str(data.get("path", "")).removeprefix("/"),
            str(until).partition(" ")[0] if until else None,
        )


def _label(names: tuple[str, ...]) -> str:
    return f"file or folder {'/'.join(names)!r}" if names else "folder of the files"


def _not_root(path: str) -> tuple[str, ...]:
    if names := segments(path):
        return names
    raise errors.bad_input("The path is that of all files.", "Give the path of a file or folder.")


def _like(name: str) -> str:
    escapes = {"\\": "\\\\", "%": "\\%", "_": "\\_"}
    # Stored names are composed.
    composed = normalize("NFC", name)
    return f"%{''.join(escapes.get(character, character) for character in composed)}%"


def _entry(resource: Resource) -> Entry:
    names = resource.names[2:]
    folder = "d:collection" in resource.kinds()
    size = resource.text("oc:size" if folder else "d:getcontentlength")
    return Entry(
        path="/".join(names),
        name=names[-1] if names else "",
        is_folder=folder,
        size=int(size) if re.fullmatch("[0-9]{1,18}", size) else 0,
        etag=bare_etag(resource.text("d:getetag")),
        mime="" if folder else resource.text("d:getcontenttype"),
        modified=_moment(resource.text("d:getlastmodified")),
        id=resource.text("oc:fileid"),
    )


def _moment(text: str) -> datetime | None:
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (OverflowError, ValueError):
        return None


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise errors.bad_input(
            "The text has half of a surrogate pair, which no file can hold.", "Leave it out."
        ) from None


def _decoded(content: bytes, *, first: bool) -> tuple[str | None, int]:
    """Return up to a page of text and the number of its bytes; None if it is not text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        # A page may end inside a character; a whole file may not.
        text = decoder.decode(content, final=len(content) < _PAGE)
    except UnicodeDecodeError:
        return None, 0
    if "\0" in text:
        return None, 0
    text = text[:CHARACTERS]
    used = len(text.encode())
    return (text.removeprefix("\ufeff") if first else text), used
