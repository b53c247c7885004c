"""The tool that says who is connected."""

from __future__ import annotations

from typing import Final

from nextcloud_mcp_server.tools.declare import READS, Call, Declared, tool
from nextcloud_mcp_server.tools.results import Account
from nextcloud_mcp_server.tools.times import zone_advice


@tool("Who am I", None, READS)
async def whoami(call: Call) -> Account:
    """Return the connected Nextcloud account, its time zone, and the scopes of this client."""
    nextcloud = call.person.nextcloud
    user = await nextcloud.account.whoami()
    return Account(
        user_id=user.id,
        display_name=user.display_name,
        email=user.email,
        timezone=user.timezone,
        language=user.language,
        quota=user.quota,
        used=user.used,
        nextcloud=nextcloud.server.url(""),
        version=(await nextcloud.account.capabilities()).version,
        scopes=sorted(call.person.scopes),
        advice=" ".join(filter(None, (call.person.advice, zone_advice(user.timezone)))),
    )


TOOLS: Final[tuple[Declared, ...]] = (whoami,)
