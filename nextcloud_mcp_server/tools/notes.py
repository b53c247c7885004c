"""The tools for notes."""

from __future__ import annotations

from typing import Annotated, Final

from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from nextcloud_mcp_server.nextcloud.account import Capabilities
from nextcloud_mcp_server.nextcloud.notes import Note
from nextcloud_mcp_server.nextcloud.paging import ITEMS
from nextcloud_mcp_server.tools.declare import OVERWRITES, READS, Call, Cursor, Declared, tool
from nextcloud_mcp_server.tools.results import (
    NoteItem,
    NoteList,
    NoteText,
    NoteWritten,
    note_text,
)

#: Chunks of 50 notes that one search reads.
_CHUNKS: Final = 40


def _available(has: Capabilities) -> bool:
    return has.notes


@tool("Search notes", "notes:read", READS, _available)
async def notes_search(
    call: Call,
    text: Annotated[str, Field(description="Empty for all notes")] = "",
    cursor: Cursor = None,
) -> NoteList:
    """Find notes by a text in title, category or content, 50 a page."""
    found: list[Note] = []
    for chunk in range(_CHUNKS):
        page = await call.person.nextcloud.notes.search(text, cursor=cursor)
        if len(found) + len(page.items) > ITEMS:
            # This chunk is the first one of the next page.
            break
        found += page.items
        cursor = page.next
        if cursor is None:
            break
        read = (chunk + 1) * ITEMS
        await call.progress(read, None, f"{read} notes read, {len(found)} found")
    return NoteList(items=[NoteItem.model_validate(note) for note in found], next=cursor)


@tool("Read a note", "notes:read", READS, _available)
async def notes_read(call: Call, id: int, cursor: Cursor = None) -> NoteText:
    """Read a note, 20,000 characters a page. The etag is needed to change it."""
    read = await call.person.nextcloud.notes.read(id, cursor=cursor)
    return note_text(read.note, read.text, read.next)


@tool("Write a note", "notes:write", OVERWRITES, _available)
async def notes_write(
    call: Call,
    *,
    id: Annotated[int | None, Field(description="To change a note")] = None,
    etag: Annotated[str | None, Field(description="With id: that of the version read")] = None,
    title: str | None = None,
    text: Annotated[str | None, Field(description="The whole new text")] = None,
    category: str | None = None,
) -> NoteWritten:
    """Create a note, or with id and etag change it; what is not given stays."""
    notes = call.person.nextcloud.notes
    if id is None:
        if not title:
            raise ToolError("A new note needs a title. To change a note, pass its id and etag.")
        note = await notes.create(title, text or "", category=category or "")
    else:
        if etag is None:
            raise ToolError("The etag is missing. Read the note, and pass the etag of the result.")
        note = await notes.update(id, etag=etag, title=title, text=text, category=category)
    return NoteWritten.model_validate(note)


TOOLS: Final[tuple[Declared, ...]] = (notes_search, notes_read, notes_write)
