"""One question to Nextcloud when the server has started. It delays and stops nothing."""

from __future__ import annotations

import logging

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

logger = logging.getLogger(__name__)

#: Seconds for the answer.
_PATIENCE = 10.0


async def warn_if_unusable(settings: NextcloudSettings) -> None:
    """Log one warning if Nextcloud does not answer as it should."""
    # Half a second, which a server without a Nextcloud saves.
    from nextcloud_mcp_server.nextcloud.addresses import Server  # noqa: PLC0415
    from nextcloud_mcp_server.nextcloud.connection import open_http  # noqa: PLC0415
    from nextcloud_mcp_server.nextcloud.errors import NextcloudError  # noqa: PLC0415
    from nextcloud_mcp_server.nextcloud.status import require_nextcloud  # noqa: PLC0415

    agent = f"nextcloud-mcp-server/{__version__}"
    try:
        async with open_http(timeout=_PATIENCE) as http:
            await require_nextcloud(http, Server.parse(settings.host), agent)
    except NextcloudError as error:
        logger.warning(
            "Nobody can use Nextcloud now: %s %s [%s]",
            printable(error.message),
            printable(error.remedy),
            error.code,
        )
