"""How long the lifespan waits for the lock of a database, and what stops the wait."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from nextcloud_mcp_server import lifespan as lifespan_module
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.lifespan import token_store_lifespan
from nextcloud_mcp_server.settings import EMBEDDED_LOCK_TIMEOUT, Settings
from tests.server.helpers import Server
from tests.support.contents import KEY


async def _waited(database: Path, settings: Settings | None) -> str:
    with guard(database, 0) as lock:
        lock.announce("upgrading it")
        with pytest.raises(TokenStorageError) as caught:
            async with token_store_lifespan(database, encryption_key=KEY, settings=settings)(None):
                raise AssertionError("the lock is held")
    assert caught.value.code == "lock-timeout"
    assert f"process {os.getpid()} on " in caught.value.message
    return caught.value.message


async def test_by_default_it_waits_for_seconds(
    old_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without settings the wait ends before a service manager loses patience, naming the holder."""
    monkeypatch.delenv("TOKEN_STORAGE_LOCK_TIMEOUT", raising=False)
    assert EMBEDDED_LOCK_TIMEOUT <= 30
    monkeypatch.setattr(lifespan_module, "EMBEDDED_LOCK_TIMEOUT", 0.25)
    assert "0.25 seconds" in await _waited(old_database, None)


async def test_the_environment_sets_another_time(
    old_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TOKEN_STORAGE_LOCK_TIMEOUT wins over the default of the lifespan."""
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "0.125")
    assert "0.125 seconds" in await _waited(old_database, None)


async def test_the_settings_set_another_time(old_database: Path) -> None:
    """Settings that are passed in are used as they are."""
    settings = Settings(old_database, lock_timeout=0.375)
    assert "0.375 seconds" in await _waited(old_database, settings)


_APP = """
import os, sys
import uvicorn
from starlette.applications import Starlette
from nextcloud_mcp_server import lifespan

lifespan.EMBEDDED_LOCK_TIMEOUT = 2.0
app = Starlette(lifespan=lifespan.token_store_lifespan(sys.argv[1]))
print("ready", flush=True)
uvicorn.run(app, port=0, log_level="critical")
"""


def test_uvicorn_stops_after_the_wait(old_database: Path) -> None:
    """An embedded store that waits for the lock does not hold up SIGTERM for long."""
    app = ("-c", _APP, str(old_database))
    with guard(old_database, 0), Server(old_database, command=app) as server:
        server.line("ready")
        time.sleep(0.5)
        assert server.stop()[0] != 0
