"""The access of the mode for one person, whose account is in the settings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from mcp.server.mcpserver.exceptions import ToolError

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.settings.nextcloud import AccountSettings
from nextcloud_mcp_server.tools.access import SHARE, Person

if TYPE_CHECKING:
    import httpx2
    from mcp.server.mcpserver import Context

#: How Nextcloud makes app passwords: for people five groups of five characters, for programs 72.
_APP_PASSWORD: Final = re.compile(r"[a-zA-Z0-9]{5}(-[a-zA-Z0-9]{5}){4}|[a-zA-Z0-9]{72}")

_HOW: Final = (
    "Create an app password in Nextcloud: Personal settings, Security, Devices & sessions. Set "
    "NEXTCLOUD_PASSWORD to it in the settings of the MCP client, and restart the client."
)

_ADVICE: Final = (
    "NEXTCLOUD_PASSWORD looks like a login password. It makes each request slower, it fails with "
    f"two-factor authentication, and it cannot be revoked on its own. {_HOW}"
)


def is_app_password(password: str) -> bool:
    """Check whether a password has the form of an app password. Nextcloud is not asked.

    Its own answer would cost a wrong login or a new app password.
    """
    return _APP_PASSWORD.fullmatch(password) is not None


class OnePerson:
    """The account of the settings, with every scope of ``scopes``; sharing only if it is allowed.

    Args:
        settings: the account; may be incomplete or wrong.
        http: the client of :func:`~nextcloud_mcp_server.nextcloud.connection.open_http`.
        scopes: those of the tools.

    Raises:
        NextcloudError: ``bad-input`` if the address is not a URL.
    """

    def __init__(
        self, settings: AccountSettings, http: httpx2.AsyncClient, scopes: frozenset[str]
    ) -> None:
        self._missing = settings.missing
        self._wrong = settings.wrong
        self._person: Person | None = None
        if not (self._missing or self._wrong):
            nextcloud = Nextcloud(
                http,
                Server.parse(settings.host),
                login_name=settings.username,
                app_password=settings.password,
                user_agent=f"nextcloud-mcp-server/{__version__}",
            )
            advice = "" if is_app_password(settings.password) else _ADVICE
            granted = scopes if settings.share_links else scopes - {SHARE}
            self._person = Person(nextcloud, granted, advice)

    @property
    def advice(self) -> str:
        """Return what the person should set or replace; empty if nothing."""
        return self._person.advice if self._person is not None else self._how_to_connect()

    def _how_to_connect(self) -> str:
        if self._wrong:
            return (
                f"No Nextcloud is connected: {self._wrong} It is in the settings of the MCP "
                "client; restart the client afterwards."
            )
        return (
            f"No Nextcloud is connected: {', '.join(self._missing)} "
            f"{'is' if len(self._missing) == 1 else 'are'} not set. NEXTCLOUD_HOST is an address "
            f"like https://cloud.example.com, NEXTCLOUD_USERNAME the login name. {_HOW}"
        )

    async def person(self) -> Person | None:
        """Return the person of the settings; None if they are incomplete or wrong."""
        return self._person

    async def require(self, scope: str | None, context: Context[Any, Any]) -> Person:
        """Return the person of the settings.

        Raises:
            ToolError: the settings are incomplete or wrong, or links are not allowed.
        """
        del context
        if self._person is None:
            raise ToolError(self._how_to_connect())
        if scope is not None and scope not in self._person.scopes:
            raise ToolError(
                "Public links are switched off. To allow them, set SHARE_LINKS=true in the "
                "settings of the MCP client, and restart the client."
            )
        return self._person

    async def failed(self, error: NextcloudError) -> ToolError:
        """Return what to do next; after a refused password, how to replace it."""
        if error.code != "reconnect":
            return ToolError(f"{error.message} {error.remedy}")
        again = (
            "It is not tried again, because Nextcloud locks out an address after ten wrong logins."
        )
        return ToolError(f"{error.message} {again} {self.advice or _HOW}")
