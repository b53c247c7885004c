"""A restore under a running server: refused, or seen by it with every write kept."""

from __future__ import annotations

import shutil
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.maintenance import replace
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from tests.cli.places import execute
from tests.maintenance.restore.harm import garbage
from tests.maintenance.restore.restoring import restored
from tests.support.child import Child, child
from tests.support.contents import KEY
from tests.support.errors import refused

SERVER = """
import asyncio, sys
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1], encryption_key=sys.argv[2]) as storage:
        print("ready", flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).split():
            try:
                if line[0] == "list":
                    print(" ".join(await storage.list_user_ids()), flush=True)
                else:
                    await storage.store_refresh_token(line[1], "token")
                    print("stored", flush=True)
            except TokenStorageError as error:
                print(error.code, flush=True)

asyncio.run(main())
"""


def server(path: Path) -> AbstractContextManager[Child]:
    """Open the store in another process, and close it cleanly at the end."""
    return child(SERVER, path, KEY)


@pytest.fixture
def two(path: Path, tmp_path: Path) -> Path:
    """Return a backup with the users `anna` and `bert`; the database has `anna` and `carl`."""
    with server(path) as running:
        running.ask("store anna")
        running.ask("store bert")
    saved = back_up(path, tmp_path / "saved.db")
    execute(path, "DELETE FROM refresh_tokens WHERE user_id = 'bert'")
    with server(path) as running:
        running.ask("store carl")
    return saved


def test_a_running_server_reads_what_was_restored_and_its_writes_are_kept(
    path: Path, two: Path
) -> None:
    """It reads the restored rows at once; what it acknowledges afterwards is there when it ends."""
    with server(path) as running:
        assert running.ask("list") == "anna carl"
        restored(path, two, while_running=True)
        assert running.ask("list") == "anna bert"
        assert running.ask("store dora") == "stored"
        assert running.ask("list") == "anna bert dora"
    with server(path) as again:
        assert again.ask("list") == "anna bert dora"


def test_acknowledged_writes_during_a_restore_are_old_or_kept(path: Path, two: Path) -> None:
    """A server that writes all the time loses no write that it acknowledged after the restore."""
    with server(path) as running:
        offer = preview_restore(path, two)
        after: list[str] = []
        over = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                restore(offer, while_running=True, lock_timeout=10)
            except BaseException as error:  # noqa: BLE001 - told below
                failed.append(error)
            over.set()

        thread = threading.Thread(target=work)
        thread.start()
        number = 0
        while len(after) < 20:
            number += 1
            begun_after = over.is_set()
            assert running.ask(f"store user{number}") == "stored"
            if begun_after:
                after.append(f"user{number}")
        thread.join()
        assert failed == []
    with server(path) as again:
        there = again.ask("list").split()
    assert {"anna", "bert", *after} <= set(there)
    assert "carl" not in there


def test_a_restore_by_renaming_is_refused_by_the_running_server(path: Path, two: Path) -> None:
    """After a rename under an open store, it confirms nothing, and a restart reads the new file."""
    with server(path) as running:
        assert running.ask("list") == "anna carl"
        # A connection is opened when it is first needed.
        assert running.ask("store carl") == "stored"
        copy = path.with_name("copy")
        shutil.copy(two, copy)
        copy.replace(path)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink()
        assert running.ask("list") == "replaced"
        assert running.ask("store dora") == "replaced"
    with server(path) as again:
        assert again.ask("list") == "anna bert"


def test_a_damaged_database_is_not_replaced_under_a_server(path: Path, two: Path) -> None:
    """It may be renamed, so no process may have it open, even with --while-running."""
    with server(path):
        garbage(path)
        raw = path.read_bytes()
        offer = preview_restore(path, two)
        refused(lambda: restore(offer, while_running=True, lock_timeout=10), "in-use")
        assert path.read_bytes()[:100] == raw[:100]


def test_a_server_that_writes_and_ends_before_the_check_is_no_damage(
    path: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restore succeeds, and what the server acknowledged is kept."""
    copy = replace.copy_into
    with server(path) as running:

        def copied(*arguments: Any) -> None:
            copy(*arguments)
            assert running.ask("store dora") == "stored"
            running.kill()

        monkeypatch.setattr(replace, "copy_into", copied)
        restored(path, two, while_running=True)
    with server(path) as again:
        assert again.ask("list") == "anna bert dora"
