"""Pages: lists of 50 and text of 20,000 characters, with a cursor for what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from nextcloud_mcp_server.nextcloud.errors import bad_input

T = TypeVar("T")

#: Receives how many of how many requests are done.
Progress = Callable[[int, int], Awaitable[None]]

#: Items of a list on one page.
ITEMS = 50

#: Characters of a text on one page.
CHARACTERS = 20_000


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and the cursor of the next page; None on the last one."""

    items: tuple[T, ...]
    next: str | None


def offset_of(cursor: str | None) -> int:
    """Return the position of a cursor; 0 without one.

    Raises:
        NextcloudError: ``bad-input`` if it is not a cursor of this module.
    """
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 15):  # noqa: PLR2004 - digits
        raise bad_input("The cursor is not one of this list.", "Pass `next` of the page before.")
    return int(cursor)


def page(items: Sequence[T], cursor: str | None) -> Page[T]:
    """Return the page of a list that is complete."""
    start = offset_of(cursor)
    end = start + ITEMS
    return Page(tuple(items[start:end]), str(end) if end < len(items) else None)


def text_page(text: str, cursor: str | None) -> tuple[str, str | None]:
    """Return the page of a text that is complete, and the cursor of the next one."""
    start = offset_of(cursor)
    end = start + CHARACTERS
    return text[start:end], str(end) if end < len(text) else None
