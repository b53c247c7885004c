"""The service as a whole, from its start: no asynchronous test is needed for that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.migrations import get_current_revision, get_head_revision
from nextcloud_mcp_server.testing.templates import TokenDbAt
from reminders import app


def test_a_grant_goes_in_and_its_user_comes_out(token_db: Path) -> None:
    """The service finds ``token_db`` in its environment, which the fixture points there."""
    with TestClient(app) as client:
        assert client.put("/grants/alice", content="her grant").status_code == 204
        assert client.get("/grants").json() == ["alice"]
    assert b"her grant" not in token_db.read_bytes()


def test_a_new_installation_starts(token_environment: Mapping[str, str]) -> None:
    """Where there is no database yet, the start makes one, in this test's folder."""
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
