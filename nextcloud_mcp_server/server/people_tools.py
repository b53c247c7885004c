"""The tools with which a person connects and disconnects a client over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, TextContent

from nextcloud_mcp_server.auth.mcp_grants import BY_CLIENT
from nextcloud_mcp_server.server.people import People
from nextcloud_mcp_server.tools.declare import DELETES, READS, Kind
from nextcloud_mcp_server.tools.results import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

_CONNECT: Final = (
    "Say which account is connected and what this client may do, or what the person has to do; "
    "`page` is where the person changes it."
)
_DISCONNECT: Final = (
    "End this client's access. With all=true end that of every client, and delete the app "
    "password in Nextcloud. Ask the person before."
)


#: A connection in a text without indentation.
Compact = Annotated[CallToolResult, Connection]


def connection_tools(people: People) -> list[Tool]:
    """Return the tools ``connect`` and ``disconnect``, which need no scope."""

    async def connect() -> Compact:
        token = await people.token()
        try:
            await people.connected()
        except ToolError as problem:
            return _result(people, token.subject, [], False, str(problem))
        granted = [scope for scope in people.provider.supported if scope in token.scopes]
        return _result(people, token.subject, granted, True, "The account is connected.")

    async def disconnect(all: bool = False) -> Compact:  # noqa: A002 - the argument's name
        token = await people.token()
        user = str(token.subject)
        if not all:
            grants = people.provider.storage.mcp_grants
            await grants.revoke(str((token.claims or {})["grant_id"]), BY_CLIENT, user_id=user)
            people.provider.close(token)
            message = (
                "The access of this client is ended. The app password stays, for other clients."
            )
            return _result(people, user, [], False, message)
        # First, so that no other client uses the password that is being deleted.
        await people.provider.end_access(user)
        people.provider.close(token)
        left = await people.disconnect(user)
        message = "The access of every client is ended, and the app password is deleted."
        if left is not None:
            message = (
                "The access of every client is ended. The app password may still be in Nextcloud: "
                f"delete it there under Devices & sessions. {left}"
            )
        return _result(people, user, [], False, message)

    return [
        _tool(connect, "Connection", _CONNECT, READS),
        _tool(disconnect, "Disconnect", _DISCONNECT, DELETES),
    ]


def _result(
    people: People, user: str | None, scopes: list[str], connected: bool, message: str
) -> Compact:
    result = Connection(
        connected=connected, user_id=user or "", scopes=scopes, message=message, page=people.home
    )
    # As the other tools: the SDK would indent the text.
    text = TextContent(type="text", text=result.model_dump_json())
    return CallToolResult(content=[text], structured_content=result.model_dump(mode="json"))


def _tool(function: Callable[..., Any], title: str, description: str, kind: Kind) -> Tool:
    return Tool.from_function(
        function,
        title=title,
        description=description,
        annotations=kind.annotations(title),
        structured_output=True,
    )
