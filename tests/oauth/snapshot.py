"""The tools that only the mode over HTTP has, as clients get them, for review.

``python -m tests.oauth.snapshot`` writes ``tests/oauth/tools.json``; a test compares them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import MCPServer

from nextcloud_mcp_server.oauth.clients import Clients
from nextcloud_mcp_server.oauth.documents import Documents
from nextcloud_mcp_server.oauth.provider import Provider
from nextcloud_mcp_server.server.people import People
from nextcloud_mcp_server.server.people_tools import connection_tools
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings
from tests.tools.snapshot import render

FILE = Path(__file__).with_name("tools.json")

SETTINGS = NextcloudSettings(
    "https://cloud.example.com", "https://cloud.example.com", "https://mcp.example.com"
)


async def tools() -> list[dict[str, Any]]:
    """Return the tools."""
    people = People(SETTINGS, Provider(SETTINGS, Clients(Documents())))
    listed = await MCPServer[Any]("test", tools=connection_tools(people)).list_tools()
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed]


if __name__ == "__main__":
    FILE.write_text(render(asyncio.run(tools())), "utf-8")
