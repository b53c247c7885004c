"""Login Flow v2 for a sign-in: begin it, ask for its result, and store what was granted."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from nextcloud_mcp_server.auth.app_passwords import AppPassword
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.errors import TokenStorageError, is_damaged
from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.account import User
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.login_flow import Granted, begin_login, poll_login
from nextcloud_mcp_server.oauth.provider import Provider
from nextcloud_mcp_server.secret import Secret, hidden
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

#: Seconds between two polls of Nextcloud for one sign-in.
_PAUSE: Final = 1.0
_REMEMBERED: Final = 1_000

Kept = TypeVar("Kept")


class Logins:
    """The logins of people at the Nextcloud of this server."""

    def __init__(self, settings: NextcloudSettings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._server = Server.parse(settings.host)
        self._browser = Server.parse(settings.browser_url)
        #: The client of Nextcloud, while the server runs.
        self.http: httpx2.AsyncClient | None = None
        self._polled: dict[str, float] = {}
        #: The code that was logged last, by sign-in: one that waits asks every two seconds.
        self._logged: dict[str, str] = {}
        #: What could not be stored, by sign-in.
        self._granted: dict[str, Granted] = {}

    async def begin(
        self, session_id: Secret, name: str, *, scopes: tuple[str, ...] | None = None
    ) -> None:
        """Begin a login for a sign-in.

        Args:
            session_id: of the sign-in.
            name: what the person sees beside this server's name in Nextcloud.
            scopes: what the person grants.

        Raises:
            NextcloudError: the request failed. It is logged, and its texts are for the person.
        """
        try:
            started = await begin_login(
                self._open_http(), self._server, self._agent(name), browser=self._browser
            )
        except NextcloudError as error:
            _log(error)
            raise self._for_person(error) from None
        await self._provider.storage.oauth_sessions.update(
            session_id,
            granted_scopes=scopes,
            poll_endpoint=self._settings.host,
            # The link is a secret too: who opens it first is connected.
            poll_token=json.dumps([started.poll_token, started.login_url]),
        )
        self._provider.count("sign_in", "started")

    def url(self, session: OAuthSession) -> Secret:
        """Return the page of Nextcloud that the person opens."""
        return Secret(json.loads(session.poll_token or "")[1])

    async def poll(
        self, session_id: Secret, session: OAuthSession, name: str, *, connects: bool
    ) -> str | None:
        """Return the user if access was granted.

        Args:
            session_id: of the sign-in.
            session: the sign-in.
            name: as for :meth:`begin`.
            connects: whether the app password is stored. Otherwise it only says who the person
                is, and is deleted, unless the stored one does not work any more.

        Raises:
            NextcloudError: a request failed. It is logged, and its texts are for the person.
            TokenStorageError: as the store; the next poll continues.
        """
        try:
            user = await self._poll(session_id, session, name, connects=connects)
        except NextcloudError as error:
            if self._logged.get(session_id) != error.code:
                _log(error)
            _keep(self._logged, session_id, error.code)
            raise self._for_person(error) from None
        self._logged.pop(session_id, None)
        return user

    async def _poll(
        self, session_id: Secret, session: OAuthSession, name: str, *, connects: bool
    ) -> str | None:
        now = time.monotonic()
        if now - self._polled.get(session_id, -_PAUSE) < _PAUSE:
            return None
        _keep(self._polled, session_id, now)
        if session.poll_endpoint != self._settings.host:
            # NEXTCLOUD_HOST has changed: the token is for the other server.
            return None
        token = Secret(json.loads(session.poll_token or "")[0])
        agent = self._agent(name)
        granted = self._granted.pop(session_id, None) or await poll_login(
            self._open_http(), self._server, agent, token
        )
        if granted is None:
            return None
        try:
            user = await self._connect(granted, agent, session, connects=connects)
            await self._provider.storage.oauth_sessions.update(session_id, user_id=user.id)
        except NextcloudError:
            # Nextcloud gives a password out once: there is nothing to wait for any more.
            await self._provider.storage.oauth_sessions.delete(session_id)
            self._provider.count("sign_in", "failed")
            raise
        except TokenStorageError:
            # For the same reason the next poll needs it.
            _keep(self._granted, session_id, granted)
            raise
        self._provider.count("sign_in", "granted")
        return user.id

    async def _connect(
        self, granted: Granted, agent: str, session: OAuthSession, *, connects: bool
    ) -> User:
        """Store a granted app password, and delete the one that is not used any more."""
        client = self._client(granted.login_name, granted.app_password, agent)
        passwords = self._provider.storage.app_passwords
        try:
            # A login name is not a user id.
            user = await client.account.whoami()
        except NextcloudError:
            await _delete(client, "The new")
            raise
        damaged, old = False, None
        try:
            old = await passwords.get(user.id)
        except TokenStorageError as error:
            damaged = is_damaged(error)
            if not damaged:
                raise
        if not connects and not damaged and (old is None or self.works(old)):
            await _delete(client, "The new")
            return user
        kept = None if connects or old is None else old.scopes
        await passwords.store(
            user.id,
            granted.app_password,
            scopes=session.granted_scopes if connects else kept,
            username=granted.login_name,
            server=self._settings.host,
            name=agent,
        )
        # Afterwards: if the store fails, the previous one still works. It is the same one if only
        # the last step of a poll failed.
        if old is not None and old.password != granted.app_password:
            await self.delete(old, "The previous")
        return user

    def _for_person(self, error: NextcloudError) -> NextcloudError:
        """Return an error without what only the operator can use."""
        place = self._settings.browser_url
        if error.code == "timeout":
            return errors.not_answering(place)
        return errors.for_person(error, place)

    def works(self, password: AppPassword) -> bool:
        """Return whether an app password is for this Nextcloud and was not refused."""
        return password.server == self._settings.host and password.refused_at is None

    async def delete(self, password: AppPassword, which: str) -> bool:
        """Delete an app password in Nextcloud with itself: no other credential may do that.

        Returns:
            False if it stays there.
        """
        if not self.works(password):
            return False
        agent = password.name or self._agent("")
        login_name = password.username or password.user_id
        return await _delete(self._client(login_name, password.password, agent), which)

    def _client(self, login_name: str, password: str, agent: str) -> Nextcloud:
        password = hidden(password)
        return Nextcloud(
            self._open_http(),
            self._server,
            login_name=login_name,
            app_password=password,
            user_agent=agent,
        )

    def _open_http(self) -> httpx2.AsyncClient:
        if self.http is None:
            raise AssertionError("the server runs while it answers")
        return self.http

    def _agent(self, name: str) -> str:
        """Return the name under which Nextcloud lists the app password."""
        host = urlsplit(self._settings.public_url).netloc
        # A header has no other characters.
        plain = name.encode("ascii", "replace").decode()
        return f"nextcloud-mcp-server at {host} ({plain})"


def _keep(values: dict[str, Kept], session_id: str, value: Kept) -> None:
    """Remember a value of a sign-in, for a bounded number of them."""
    if len(values) >= _REMEMBERED:
        values.clear()
    values[session_id] = value


def _log(error: NextcloudError) -> None:
    logger.warning("A sign-in failed: %s %s [%s]", error.message, error.remedy, error.code)


async def _delete(client: Nextcloud, which: str) -> bool:
    """Delete the app password of ``client`` in Nextcloud; False if it stays there."""
    if client.refused:
        return False
    try:
        await client.account.delete_app_password()
    except NextcloudError as error:
        logger.warning("%s app password stays in Nextcloud: %s", which, error.message)
        return False
    return True
