"""The client of one person's Nextcloud: its parts behind one login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextcloud_mcp_server.nextcloud.account import Account
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.calendars import Calendars
from nextcloud_mcp_server.nextcloud.connection import Connection, Login
from nextcloud_mcp_server.nextcloud.contacts import Contacts
from nextcloud_mcp_server.nextcloud.events import Events
from nextcloud_mcp_server.nextcloud.files import Files
from nextcloud_mcp_server.nextcloud.notes import Notes
from nextcloud_mcp_server.nextcloud.tasks import Tasks
from nextcloud_mcp_server.secret import hidden

if TYPE_CHECKING:
    import httpx2


class Nextcloud:
    """One person's account in one Nextcloud.

    Keep one object for a password: after a 401 it sends no request any more, and
    :attr:`refused` is true.

    Args:
        http: the client of :func:`~nextcloud_mcp_server.nextcloud.connection.open_http`, which
            all persons share.
        server: where Nextcloud is.
        login_name: what the login granted; it may differ from the user id.
        app_password: the password, which no ``repr``, ``vars`` or traceback of this object shows.
        user_agent: how this server names itself.
    """

    def __init__(
        self,
        http: httpx2.AsyncClient,
        server: Server,
        *,
        login_name: str,
        app_password: str,
        user_agent: str,
    ) -> None:
        app_password = hidden(app_password)
        self._connection = Connection(http, server, user_agent, Login(login_name, app_password))
        self.server = server
        self.account = Account(self._connection)
        self.files = Files(self._connection, self.account)
        self.notes = Notes(self._connection, self.account)
        self.calendars = Calendars(self._connection, self.account)
        self.events = Events(self.calendars)
        self.tasks = Tasks(self.calendars)
        self.contacts = Contacts(self._connection, self.account)

    @property
    def refused(self) -> bool:
        """Return whether the password was refused, or deleted by this object."""
        return self._connection.refused
