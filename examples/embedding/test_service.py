"""The service from its start; this needs no asynchronous test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.migrations import get_current_revision, get_head_revision
from nextcloud_mcp_server.testing.templates import TokenDbAt
from reminders import app


def test_a_grant_is_stored_and_its_user_is_listed(token_db: Path) -> None:
    """The service gets the path of ``token_db`` from its environment, which the fixture sets."""
    with TestClient(app) as client:
        assert client.put("/grants/alice", content="her grant").status_code == 204
        assert client.get("/grants").json() == ["alice"]
    assert b"her grant" not in token_db.read_bytes()


def test_a_new_installation_starts(token_environment: Mapping[str, str]) -> None:
    """If there is no database, the start creates one, in the folder of this test."""
    with TestClient(app) as client:
        assert client.get("/grants").json() == []
    assert get_current_revision() == get_head_revision()


@pytest.mark.parametrize("revision", ["001", "006"])
def test_an_old_installation_starts(
    token_db_at: TokenDbAt, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    """A database of an older release is upgraded by the start of the service."""
    old = token_db_at(revision)
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(old))
    with TestClient(app) as client:
        assert client.get("/grants").json() == []
    assert get_current_revision(old) == get_head_revision()
