"""Run the stand-in, or any ASGI application, on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from tests.support.nextcloud.app import Application
from tests.support.nextcloud.state import State


@dataclass(frozen=True)
class StandIn:
    """A running stand-in: its address and what it answers from."""

    url: str
    state: State


@contextmanager
def served(application: Callable[..., Any]) -> Iterator[str]:
    """Serve an application in a thread, and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(application, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def running(*, prefix: str = "") -> Iterator[StandIn]:
    """Run a Nextcloud with the users alice and bob; alice's login name is her mail address."""
    state = State()
    state.add_user("alice", "alice-login-password", login_name="alice@example.com")
    state.add_user("bob", "bob-login-password")
    with served(Application(state, prefix)) as url:
        yield StandIn(url + prefix, state)
