"""A folder for temporary files is named if it is needed; an inspection needs none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.places import Done, at, environment
from tests.migrate.databases import crash_in_a_write
from tests.support.unprivileged import open_folder

#: Only this folder can be written, and a small file system is in it.
_NO_PLACE = """
for place in /tmp /var/tmp; do mount --bind $place $place && mount -o remount,bind,ro $place; done
mount --bind "$DATA" "$DATA" && mount -o remount,bind,rw "$DATA" || exit 77
mount -t tmpfs -o size=32k none "$DATA/small" || exit 77
cd /proc && exec "$@"
"""


def run(folder: Path, *arguments: str, tmpdir: str = "") -> Done:
    """Run the program where nothing but ``folder`` can be written."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can mount")
    (folder / "small").mkdir(exist_ok=True)
    program = [sys.executable, "-m", "nextcloud_mcp_server", *arguments]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _NO_PLACE, "sh", *program],
        env=environment(folder, {"DATA": str(folder), "TMPDIR": tmpdir}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode == 77:
        pytest.skip("nothing can be mounted here")
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("command", ["current", "check", "doctor", "history", "backups", "log"])
def test_an_inspection_needs_no_temporary_folder(command: str) -> None:
    """What only reads a database works without one."""
    with open_folder() as folder:
        at(folder / "t.db")
        done = run(folder, "db", command, "-d", str(folder / "t.db"))
        assert (done.err, "temporary" in done.out) == ("", False)
        # Doctor misses the key.
        assert done.status == (1 if command == "doctor" else 0)


def test_a_missing_one_is_named() -> None:
    """The copy of a crashed database and a rehearsal in no folder need one."""
    with open_folder() as folder:
        at(folder / "t.db", "head", "PRAGMA journal_mode=DELETE")
        crash_in_a_write(folder / "t.db")
        for arguments, doing in (
            (("current", "-d", f"{folder}/t.db"), f"to read {folder}/t.db, which a crashed writer"),
            (("upgrade", "--dry-run", "-d", f"{folder}/no/t.db"), "to rehearse on a copy"),
        ):
            done = run(folder, "db", *arguments)
            assert done.status == 1
            assert (
                "error: There is no folder for temporary files that can be written (TMPDIR, /tmp, "
                f"/var/tmp), and one is needed {doing}"
            ) in done.err
            assert "remedy: Set TMPDIR to a folder that this user can write to" in done.err


def test_a_full_one_is_named() -> None:
    """The error has the folder, and not the database."""
    with open_folder() as folder:
        at(folder / "t.db", "head", "PRAGMA journal_mode=DELETE")
        crash_in_a_write(folder / "t.db")
        small = f"{folder}/small"
        for arguments in (
            ("current", "-d", f"{folder}/t.db"),
            ("upgrade", "--dry-run", "-d", f"{folder}/no/t.db"),
        ):
            done = run(folder, "db", *arguments, tmpdir=small)
            assert done.status == 1
            assert f"error: The folder for temporary files, {small}, is full; it is" in done.err
            assert "[disk-full]\nremedy: Free space there, or set TMPDIR to" in done.err
