"""The tool for contacts."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from nextcloud_mcp_server.tools.declare import READS, Call, Cursor, Declared, tool
from nextcloud_mcp_server.tools.results import ContactList, contact_item


@tool("Search contacts", "contacts:read", READS)
async def contacts_search(
    call: Call,
    text: Annotated[str, Field(description="A part of a name, address, number or company")],
    cursor: Cursor = None,
) -> ContactList:
    """Find people and companies in the person's address books, 50 a page."""
    page = await call.person.nextcloud.contacts.search(text, cursor=cursor)
    return ContactList(items=[contact_item(contact) for contact in page.items], next=page.next)


TOOLS: Final[tuple[Declared, ...]] = (contacts_search,)
