"""The account behind a login: who it is, what its Nextcloud can do, and the end of the login."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from nextcloud_mcp_server.nextcloud import errors
from nextcloud_mcp_server.nextcloud.connection import Answer, Connection

#: Seconds for which the capabilities are kept.
_FRESH: Final = 300.0


@dataclass(frozen=True)
class User:
    """A user; the id, not the login name, is part of every path of WebDAV.

    ``timezone`` is a name of the IANA database, or empty. ``quota`` and ``used`` are in bytes;
    None if there is no quota.
    """

    id: str
    display_name: str
    email: str
    timezone: str
    language: str
    quota: int | None
    used: int


@dataclass(frozen=True)
class Capabilities:
    """The version of Nextcloud, and the apps that this account can use."""

    version: str
    notes: bool
    files_trash: bool
    public_links: bool


class Account:
    """Who is connected, and the capabilities of the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._user: User | None = None
        self._capabilities: tuple[float, Capabilities] | None = None

    async def whoami(self) -> User:
        """Return the user, asked for now.

        Raises:
            NextcloudError: the request failed.
        """
        data = await ocs(self._connection, "GET", "/cloud/user", what="account", foreign={404})
        quota = _mapping(data.get("quota"))
        limit = _number(quota.get("quota"))
        if not isinstance(data.get("id"), str):
            raise errors.not_nextcloud(self._connection.server.origin, "a user without an id")
        self._user = User(
            id=data["id"],
            display_name=_text(data.get("displayname") or data.get("display-name")),
            email=_text(data.get("email")),
            timezone=_text(data.get("timezone")),
            language=_text(data.get("language")),
            # Negative: -3 is "unlimited", -2 "unknown", -1 "not computed".
            quota=limit if limit is not None and limit > 0 else None,
            used=_number(quota.get("used")) or 0,
        )
        return self._user

    async def user(self) -> User:
        """Return the user, asked for once.

        Raises:
            NextcloudError: the request failed.
        """
        return self._user or await self.whoami()

    async def capabilities(self) -> Capabilities:
        """Return the capabilities, at most five minutes old.

        Raises:
            NextcloudError: the request failed.
        """
        now = time.monotonic()
        if self._capabilities is not None and now - self._capabilities[0] < _FRESH:
            return self._capabilities[1]
        data = await ocs(
            self._connection, "GET", "/cloud/capabilities", what="server", foreign={404}
        )
        apps = _mapping(data.get("capabilities"))
        public = _mapping(_mapping(apps.get("files_sharing")).get("public"))
        found = Capabilities(
            version=_text(_mapping(data.get("version")).get("string")),
            notes="notes" in apps,
            files_trash=bool(_mapping(apps.get("files")).get("undelete")),
            public_links=bool(public.get("enabled")),
        )
        self._capabilities = (now, found)
        return found

    async def delete_app_password(self) -> None:
        """Delete the app password in Nextcloud; every later call raises ``reconnect``.

        Raises:
            NextcloudError: the request failed; ``forbidden`` for a login password.
        """
        await ocs(self._connection, "DELETE", "/core/apppassword", what="app password")
        self._connection.close(errors.disconnected())


async def ocs(
    connection: Connection,
    method: str,
    path: str,
    *,
    what: str,
    parameters: Mapping[str, str] | None = None,
    body: bytes = b"",
    found: bool = False,
    foreign: Container[int] = (),
) -> dict[str, Any]:
    """Send a request of OCS, and return the data of its answer.

    With ``found`` the object is known to exist: the status 404 is a refusal with a reason. The
    statuses ``foreign`` are answered by another program than Nextcloud.

    Raises:
        NextcloudError: the request failed.
    """
    answer = await connection.send(
        method,
        f"/ocs/v2.php{path}",
        what=what,
        query={"format": "json", **(parameters or {})},
        headers={"Accept": "application/json", "Content-Type": "application/json"},
        body=body,
        accept={404} if found else (),
        foreign=foreign,
    )
    if answer.status == 404:  # noqa: PLR2004 - Not Found
        raise errors.forbidden(what, connection.reason_of(answer))
    return ocs_data(connection, answer)


def ocs_data(connection: Connection, answer: Answer) -> dict[str, Any]:
    """Return the data of an answer of OCS.

    Raises:
        NextcloudError: ``not-nextcloud`` if it is no such answer.
    """
    envelope = _mapping(answer.json()).get("ocs")
    if not isinstance(envelope, dict) or "data" not in envelope:
        raise errors.not_nextcloud(connection.server.origin, "no OCS at /ocs/v2.php")
    # PHP writes an empty object as a list.
    return _mapping(envelope["data"])


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    # JSON of Python also has infinity.
    return int(value) if isinstance(value, int | float) and isfinite(value) else None
