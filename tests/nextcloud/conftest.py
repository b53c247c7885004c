"""Clients of the stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.connection import open_http
from tests.support.nextcloud.server import StandIn, running

if TYPE_CHECKING:
    import httpx2

AGENT = "nextcloud-mcp-server at test.example (tests)"


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A Nextcloud with the users alice and bob."""
    with running() as found:
        yield found


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """The HTTP client that all persons share."""
    async with open_http() as client:
        yield client


@pytest.fixture
def alice(stand_in: StandIn, http: httpx2.AsyncClient) -> Nextcloud:
    """Alice's client, with an app password."""
    return connect(stand_in, http, "alice")


def connect(
    stand_in: StandIn, http: httpx2.AsyncClient, user: str, password: str | None = None
) -> Nextcloud:
    """Return a client of a user, with a new app password or the given one."""
    return Nextcloud(
        http,
        Server.parse(stand_in.url),
        login_name=stand_in.state.users[user].login_name,
        app_password=password or stand_in.state.app_password(user),
        user_agent=AGENT,
    )
