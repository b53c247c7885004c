"""A database that cannot be written is served at head, and refused behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.child import run_program
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.invariants import HEAD
from tests.support.shapes import at
from tests.support.unprivileged import NOBODY, as_nobody, open_folder

_SERVE = """
async def main(path):
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        print(storage.outcome.read_only)
        print(len(await storage.list_user_ids()))
        token = await storage.get_refresh_token("alice")
        print(token.token)
        for work in (
            storage.store_refresh_token("alice", "token"),
            storage.delete_refresh_token("alice"),
        ):
            try:
                await work
            except TokenStorageError as error:
                print(error.code, error.message)
try:
    asyncio.run(main(Path(sys.argv[1])))
except TokenStorageError as error:
    print(error.code, error.message)
"""


def database(path: Path, revision: str = HEAD) -> Path:
    """Make a database with rows, closed cleanly, that every user may read."""
    at(revision if revision != HEAD else "010", "portable").write(path, ["journal_mode=WAL"])
    if revision == HEAD:
        prepare(path)
        for backup in path.parent.glob("*.backup-*"):
            backup.unlink()
    path.chmod(0o444)
    for lock in path.parent.glob("*.lock"):
        lock.chmod(0o666)
    return path


@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_at_head_a_read_only_file_is_served(folder_mode: int, journal: str) -> None:
    """Secrets are read, each write is refused with the reason, and nothing changes."""
    with open_folder() as folder:
        path = database(folder / "tokens.db")
        if journal == "delete":
            path.chmod(0o644)
            execute(path, "PRAGMA journal_mode=DELETE")
            path.chmod(0o444)
        before = path.read_bytes()
        folder.chmod(folder_mode)
        reason, users, token, *writes = as_nobody(_SERVE, path).splitlines()
        assert (users, token) == ("12", "rt-alice-0001")
        file, place = f"the file {path} cannot", f"its folder {folder} cannot"
        assert reason.startswith(place if folder_mode == 0o555 else file)
        expected = (
            f"read-only {path} is open for reading only, because {reason}; nothing was written."
        )
        assert writes == [expected, expected]
        assert path.read_bytes() == before


def test_behind_a_read_only_file_is_refused() -> None:
    """The error has the file, its mode, and that a change is needed."""
    with open_folder() as folder:
        path = database(folder / "tokens.db", "009")
        folder.chmod(0o777)
        before = invariants.disk(path)
        assert as_nobody(_SERVE, path) == (
            f"read-only {path} has to be changed, and the file {path} cannot be written by this "
            "user (mode 0444)."
        )
        invariants.untouched(before, invariants.disk(path))


_CHANGE = """
for change in (lambda path: downgrade(path, "009"), lambda path: stamp(path, "010")):
    try:
        change(Path(sys.argv[1]))
    except TokenStorageError as error:
        print(error.code, error.message, error.remedy)
"""


def test_a_downgrade_and_a_stamp_have_their_own_remedy() -> None:
    """In a read-only folder the remedy of a command is not to start again."""
    with open_folder() as folder:
        path = database(folder / "tokens.db")
        for lock in folder.glob("*.lock"):
            lock.unlink()
        before = invariants.disk(path)
        lines = as_nobody(_CHANGE, path).splitlines()
        assert len(lines) == 2
        for line in lines:
            assert line.startswith(
                f"read-only {path} has to be changed, and its folder {folder} cannot be written "
            )
            assert line.endswith("write access to the file and to its folder, then try again.")
        invariants.untouched(before, invariants.disk(path))


@contextmanager
def mounted(folder: Path, options: str = "size=8m") -> Iterator[Path]:
    """A file system of its own on ``folder``, which can be mounted again read-only."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a file system")
    if run_program("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, how: str) -> None:
    """Remount ``folder``, ``ro`` or ``rw``."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


async def test_at_head_a_read_only_mount_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only file system gives one warning, and writes are refused."""
    with mounted(tmp_path) as folder:
        path = database(folder / "tokens.db")
        remount(folder, "ro")
        caplog.clear()
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            assert len(await storage.list_user_ids()) == 12
            with pytest.raises(TokenStorageError) as caught:
                await storage.store_refresh_token("alice", "token")
        reason = f"the file system of {folder} is mounted read-only"
        assert caught.value.code == "read-only"
        assert reason in caught.value.message
        [warning] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert warning.startswith(f"{path} is at head, so it is used: it is open for reading only")
        assert reason in warning


def test_behind_a_read_only_mount_is_refused(tmp_path: Path) -> None:
    """The reason names the file system."""
    with mounted(tmp_path) as folder:
        path = database(folder / "tokens.db", "009")
        remount(folder, "ro")
        error = refused(lambda: prepare(path), "read-only")
        assert f"the file system of {folder} is mounted read-only" in error.message


def test_readiness_reports_read_only(tmp_path: Path) -> None:
    """/health/ready has status 200 and ``read_only``, which is absent if it can be written."""
    with mounted(tmp_path) as folder:
        path = database(folder / "tokens.db")
        app = create_app(settings=Settings(path, (KEY,)), check_interval=0)
        with TestClient(app) as client:
            body = client.get("/health/ready").json()
            assert "read_only" not in body
        remount(folder, "ro")
        with TestClient(app) as client:
            response = client.get("/health/ready")
            assert (response.status_code, response.json()["status"]) == (200, "ready")
            assert response.json()["read_only"] is True
            # The next write looks again, so it can be written from now on.
            remount(folder, "rw")
            assert "read_only" not in client.get("/health/ready").json()


def test_a_writable_database_is_not_read_only(tmp_path: Path) -> None:
    """A writable file in a writable folder gives no warning."""
    path = tmp_path / "tokens.db"
    outcome = prepare(path)
    assert (outcome.read_only, outcome.warning) == ("", "")
    assert permissions.unwritable(path) == ""
    assert permissions.unwritable(tmp_path / "not" / "yet" / "tokens.db") == ""


_BECOMES_WRITABLE = """
async def main(path, closed, mode):
    path.chmod(0o444) if closed == path else closed.chmod(0o555)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert storage.outcome.read_only
        assert len(await storage.list_user_ids()) == 12
        try:
            await storage.store_refresh_token("new", "token")
        except TokenStorageError as error:
            print(error.code)
        closed.chmod(mode)
        await storage.store_refresh_token("new", "token")
        assert (await storage.get_refresh_token("new")).token == "token"
        print(len(await storage.list_user_ids()))
        await asyncio.gather(*(storage.store_refresh_token("more", "x" * n) for n in (1, 2, 3)))
        print(Path(f"{path}-wal").exists())
    print(Path(f"{path}-wal").exists())
asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3], 8)))
"""


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_file_that_becomes_writable_is_written_without_a_restart(what: str, journal: str) -> None:
    """After a refused write the mode is corrected: the next write is stored and read back."""
    with open_folder() as folder:
        path = database(folder / "tokens.db")
        path.chmod(0o644)
        if journal == "delete":
            execute(path, "PRAGMA journal_mode=DELETE")
        for entry in (folder, *folder.iterdir()):
            os.chown(entry, NOBODY, NOBODY)
        closed, mode = (path, "600") if what == "file" else (folder, "755")
        answers = as_nobody(_BECOMES_WRITABLE, path, closed, mode).splitlines()
        assert answers == ["read-only", "13", str(journal == "wal"), "False"]


@pytest.mark.parametrize("inodes", [2, 3, 4, 5])
async def test_a_disk_without_inodes_is_full(inodes: int, tmp_path: Path) -> None:
    """A file that cannot be created beside the database is a full disk, not a bad path."""
    with mounted(tmp_path, f"size=8m,mode=700,nr_inodes={inodes}") as folder:
        with pytest.raises(TokenStorageError) as caught:
            async with RefreshTokenStorage(folder / "tokens.db", encryption_key=KEY) as storage:
                await storage.store_refresh_token("alice", "token")
        assert caught.value.code == "disk-full"
