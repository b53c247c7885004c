"""The list of tools as clients get it, for review.

``python -m tests.tools.snapshot`` writes ``tests/tools/tools.json``; a test compares them.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.settings.nextcloud import AccountSettings
from nextcloud_mcp_server.tools.one_person import OnePerson
from nextcloud_mcp_server.tools.server import SCOPES, create_mcp

FILE = Path(__file__).with_name("tools.json")


async def tools() -> list[dict[str, Any]]:
    """Return every tool: without an account, none is hidden."""
    async with open_http() as http:
        listed = await create_mcp(OnePerson(AccountSettings("", "", ""), http, SCOPES)).list_tools()
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]


def render(listed: list[dict[str, Any]]) -> str:
    """Return the text of the file."""
    return json.dumps(listed, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(asyncio.run(tools())), "utf-8")
