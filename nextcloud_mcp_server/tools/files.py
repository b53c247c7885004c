"""The tools for files. Paths are relative to the root folder of the person's files."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Final

from pydantic import Field

from nextcloud_mcp_server.tools.declare import (
    ADDS,
    DELETES,
    OVERWRITES,
    READS,
    Call,
    Cursor,
    Declared,
    Kind,
    tool,
)
from nextcloud_mcp_server.tools.results import (
    FileItem,
    FileList,
    FilePath,
    FileText,
    FileWritten,
    ShareLink,
)

Path = Annotated[str, Field(description="Like Documents/a.txt")]


@tool("List a folder", "files:read", READS)
async def files_list(
    call: Call,
    path: Annotated[str, Field(description="A folder; empty for the root")] = "",
    cursor: Cursor = None,
) -> FileList:
    """List the files and folders in a folder, 50 a page."""
    page = await call.person.nextcloud.files.list(path, cursor=cursor)
    return FileList(items=[FileItem.model_validate(entry) for entry in page.items], next=page.next)


@tool("Search files by name", "files:read", READS)
async def files_search(
    call: Call,
    name: Annotated[str, Field(description="A part of the name")],
    cursor: Cursor = None,
) -> FileList:
    """Find files and folders by a part of their name, the newest first, 50 a page."""
    page = await call.person.nextcloud.files.search(name, cursor=cursor)
    return FileList(items=[FileItem.model_validate(entry) for entry in page.items], next=page.next)


@tool("Read a text file", "files:read", READS)
async def files_read(call: Call, path: Path, cursor: Cursor = None) -> FileText:
    """Read a text file, 20,000 characters a page. The etag is needed to overwrite or delete it."""
    return FileText.model_validate(await call.person.nextcloud.files.read(path, cursor=cursor))


@tool("Write a text file", "files:write", OVERWRITES)
async def files_write(
    call: Call,
    path: Path,
    text: Annotated[str, Field(description="The whole new content")],
    etag: Annotated[str | None, Field(description="To overwrite: that of the version read")] = None,
) -> FileWritten:
    """Create a text file with its folders, or overwrite the version that has this etag."""
    written = await call.person.nextcloud.files.write(path, text, etag=etag)
    return FileWritten.model_validate(written)


@tool("Move or rename", "files:write", ADDS)
async def files_move(
    call: Call, path: Path, target: Annotated[str, Field(description="The new path")]
) -> FilePath:
    """Move or rename a file or folder. Nothing is overwritten."""
    return FilePath(path=await call.person.nextcloud.files.move(path, target))


@tool("Delete to the trash bin", "files:write", DELETES, lambda has: has.files_trash)
async def files_delete(call: Call, path: Path, etag: str) -> FilePath:
    """Move a file, or a folder with everything in it, to the trash bin."""
    await call.person.nextcloud.files.delete(path, etag=etag)
    return FilePath(path=path)


@tool(
    "Share by a public link",
    "files:share",
    Kind(destroys=True, outside=True),
    lambda has: has.public_links,
)
async def files_share(
    call: Call,
    path: Path,
    expires: Annotated[date | None, Field(description="The last day")] = None,
    password: Annotated[str | None, Field(description="Needed to open it")] = None,
) -> ShareLink:
    """Create a public link for reading.

    Anybody who has it can open the file or folder: ask the person first.
    """
    link = await call.person.nextcloud.files.share(path, expires=expires, password=password)
    return ShareLink.model_validate(link)


TOOLS: Final[tuple[Declared, ...]] = (
    files_list, files_search, files_read, files_write, files_move, files_delete, files_share,
)  # fmt: skip
