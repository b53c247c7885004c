"""The whole server on loopback, in front of a Nextcloud stand-in."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.request_id import RequestIds
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings
from tests.oauth.person import Browser, Client, Served
from tests.support.contents import KEY
from tests.support.nextcloud.server import StandIn, running


@contextmanager
def serving(
    database: Path | str, nextcloud: StandIn, *, read_only: bool = False, share_links: bool = False
) -> Iterator[Served]:
    """Serve the application, with its lifespan, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        settings = NextcloudSettings(nextcloud.url, nextcloud.url, url, read_only, share_links)
        app = create_app(database, encryption_key=KEY, nextcloud=settings)
        config = uvicorn.Config(RequestIds(app), log_config=None, lifespan="on", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        assert server.started
        try:
            yield Served(url, Path(database), nextcloud)
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def nextcloud() -> Iterator[StandIn]:
    """A Nextcloud with the users alice and bob."""
    with running() as found:
        yield found


@pytest.fixture
def served(token_db: Path, nextcloud: StandIn) -> Iterator[Served]:
    """The running server."""
    with serving(token_db, nextcloud) as found:
        yield found


@pytest.fixture
def browser(served: Served) -> Iterator[Browser]:
    """The browser of the person."""
    with Browser(served) as browser:
        yield browser


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    """A registered client."""
    with Client(served) as client:
        assert client.register().status_code == 201
        yield client
