"""Databases on a file system that is not known to be local."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.settings import load_settings
from tests.cli.places import rows
from tests.support.by_path import prepare
from tests.support.child import child
from tests.support.contents import KEY
from tests.support.errors import refused


@pytest.fixture(autouse=True)
def virtiofs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the kernel's list name a file system of the host of a virtual machine."""
    told = tmp_path / "mountinfo"
    told.write_text("36 35 0:9 / / rw,noatime - virtiofs share rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", told)
    monkeypatch.setattr(mounts, "on_own_device", lambda _: False)


def test_it_is_not_in_wal(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The journal mode is DELETE, and every start names the type and the setting."""
    for action in (Action.CREATE, Action.NOTHING):
        caplog.clear()
        outcome = prepare(path)
        assert (outcome.action, outcome.journal_mode) == (action, "delete")
        assert "its type is virtiofs" in caplog.text
        assert "TOKEN_STORAGE_FILESYSTEM=local" in caplog.text


@pytest.mark.parametrize(("declared", "mode"), [("local", "wal"), ("remote", "delete")])
def test_the_setting_wins_over_the_type(
    declared: str,
    mode: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A declared file system is used as declared, without a warning."""
    monkeypatch.setenv("TOKEN_STORAGE_FILESYSTEM", declared)
    for _ in range(2):
        assert prepare(path).journal_mode == mode
    assert "TOKEN_STORAGE_FILESYSTEM" not in caplog.text


def test_a_local_one_can_be_declared_remote(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The type tells nothing of a block device that two machines mount."""
    monkeypatch.setattr(mounts, "on_own_device", lambda _: True)
    assert prepare(path).journal_mode == "wal"
    monkeypatch.setenv("TOKEN_STORAGE_FILESYSTEM", "remote")
    assert [prepare(path).journal_mode for _ in range(2)] == ["delete", "delete"]


@pytest.mark.parametrize("text", ["Local", "nfs", " local", "0"])
def test_another_value_is_refused(text: str) -> None:
    """A mistyped value is no reason to guess."""
    error = refused(
        lambda: load_settings({"TOKEN_STORAGE_FILESYSTEM": text}, database="x.db"), "bad-input"
    )
    assert repr(text) in error.message


#: Stores a token in a database that it uses in WAL mode, and another one when its input ends.
_WRITER = f"""
import asyncio, os, sys
os.environ["TOKEN_STORAGE_FILESYSTEM"] = "local"
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1], encryption_key={KEY!r}) as storage:
        await storage.store_refresh_token("alice", "first")
        print("ready", flush=True)
        sys.stdin.readline()
        await storage.store_refresh_token("bob", "second")

asyncio.run(main())
"""


async def test_a_running_server_keeps_its_wal(path: Path) -> None:
    """A start leaves WAL only if no other process has the database open; no write is lost."""
    with child(_WRITER, path):
        assert prepare(path).journal_mode == "wal"
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            await storage.store_refresh_token("carol", "third")
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert storage.outcome is not None
        assert storage.outcome.journal_mode == "delete"
        assert sorted(await storage.list_user_ids()) == ["alice", "bob", "carol"]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize(("mode", "other"), [("local", "remote"), ("remote", "local")])
async def test_an_idle_store_keeps_its_journal_mode(
    mode: str, other: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store without a connection writes as in the mode that it was opened in, so it stays."""
    modes = {"local": "wal", "remote": "delete"}
    monkeypatch.setenv("TOKEN_STORAGE_FILESYSTEM", mode)
    async with RefreshTokenStorage(path, encryption_key=KEY) as idle:
        monkeypatch.setenv("TOKEN_STORAGE_FILESYSTEM", other)
        assert prepare(path).journal_mode == modes[mode]
        await idle.store_refresh_token("alice", "token")
    assert prepare(path).journal_mode == modes[other]
