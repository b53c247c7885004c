"""Whether an address is one of a Nextcloud that works, asked without an account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.connection import Connection
from nextcloud_mcp_server.nextcloud.errors import NextcloudError

if TYPE_CHECKING:
    import httpx2


async def require_nextcloud(http: httpx2.AsyncClient, server: Server, user_agent: str) -> None:
    """Ask ``status.php``, which every Nextcloud answers to everybody.

    A server that forbids it (403) passes: some operators close it.

    Raises:
        NextcloudError: ``no-connection``, ``not-nextcloud``, ``maintenance``, or the request
            failed.
    """
    connection = Connection(http, server, user_agent, None)
    try:
        answer = await connection.send(
            "GET", "/status.php", what="status", accept={403}, foreign={404, 405, 501}
        )
    except NextcloudError as error:
        if error.code != "timeout":
            raise
        # Its own remedy is about a change that was sent.
        raise errors.no_connection(server.url(""), "it did not answer in time") from None
    if answer.status == 403:  # noqa: PLR2004 - Forbidden
        return
    status = answer.json()
    if not isinstance(status, dict) or "installed" not in status:
        raise errors.not_nextcloud(server.url(""), "its status.php is none of Nextcloud")
    if status["installed"] is not True:
        raise errors.not_nextcloud(server.url(""), "it is not installed yet")
    if status.get("maintenance") is True:
        raise errors.maintenance()
