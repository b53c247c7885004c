"""Progress of a command: a bar on a terminal, lines elsewhere, nothing with --json."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.operation import progress_bar
from nextcloud_mcp_server.progress import Progress
from tests.cli.places import Shelf, environment, process

#: The command; a copy is verified only after the progress line about it was printed.
SLOW = """
import sys, time
from nextcloud_mcp_server import progress
from nextcloud_mcp_server.backends.sqlite import backup
from nextcloud_mcp_server.cli.main import main
progress.INTERVAL = 0.01
progress.LOG_INTERVAL = 0.02
printed, text = set(), progress.Progress.__str__
def record(self):
    printed.add(self.phase)
    return text(self)
progress.Progress.__str__ = record
real = backup.check_pages
def patiently(path):
    for _ in range(0 if "--json" in sys.argv else 1000):
        if "verifying the copy" in printed:
            break
        time.sleep(0.01)
    return real(path)
backup.check_pages = patiently
sys.exit(main())
"""


def on_a_terminal(*arguments: str, cwd: Path, status: int = 0) -> tuple[str, str]:
    """Return what a command prints on stdout, and on a terminal as its stderr."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments],
        cwd=cwd,
        env=environment(cwd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as running:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        out, _ = running.communicate(timeout=60)
    os.close(ours)
    assert running.returncode == status
    return out, shown.decode()


@pytest.mark.parametrize("arguments", [["upgrade"], ["upgrade", "--dry-run"], ["backup"]])
def test_a_terminal_gets_a_bar(arguments: list[str], shelf: Shelf, tmp_path: Path) -> None:
    """The bar is drawn over itself and removed at the end; stdout has only the result."""
    shelf.put("behind", tmp_path / "t.db")
    out, shown = on_a_terminal("db", *arguments, "-d", "t.db", cwd=tmp_path)
    assert re.search(r"\r\x1b\[Kverifying the copy, \d+ s", shown)
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown
    assert "\x1b" not in out


def _to_restore(shelf: Shelf, folder: Path) -> tuple[list[str], int]:
    shelf.put("at-head", folder / "t.db")
    shelf.put("behind", folder / "saved.db")
    return ["restore", "saved.db", "--yes"], 0


def _to_repair(shelf: Shelf, folder: Path) -> tuple[list[str], int]:
    shelf.put("two-rows", folder / "t.db")
    # It exits 1 because no key is set for the secret in it.
    return ["repair", "--yes"], 1


@pytest.mark.parametrize("prepared", [_to_restore, _to_repair])
def test_restore_and_repair_show_progress(
    prepared: Callable[[Shelf, Path], tuple[list[str], int]], shelf: Shelf, tmp_path: Path
) -> None:
    """A restore and a repair draw a bar while they copy the replaced file."""
    arguments, status = prepared(shelf, tmp_path)
    _, shown = on_a_terminal("db", *arguments, "-d", "t.db", cwd=tmp_path, status=status)
    assert re.search(r"\r\x1b\[Kverifying the copy, \d+ s", shown)
    assert shown.endswith("\r\x1b[K")


def test_json_has_no_bar(shelf: Shelf, tmp_path: Path) -> None:
    """With --json nothing but the document is printed."""
    shelf.put("behind", tmp_path / "t.db")
    out, shown = on_a_terminal("db", "upgrade", "--json", "-d", "t.db", cwd=tmp_path)
    assert (out[0], shown) == ("{", "")


def test_a_pipe_gets_lines(shelf: Shelf, tmp_path: Path) -> None:
    """If stderr is not a terminal, it gets lines without control characters."""
    shelf.put("behind", tmp_path / "t.db")
    done = process("db", "upgrade", "-d", "t.db", cwd=tmp_path, code=SLOW)
    assert done.status == 0
    assert re.search(r"^verifying the copy, \d+ s so far$", done.err, re.MULTILINE)
    assert {"\x1b", "\r"}.isdisjoint(done.err)


def test_a_bar_is_full_at_the_end() -> None:
    """The bar has twenty characters, or is left out if the total is not known."""
    assert progress_bar(Progress("copying it", 5, 20, "pages", 3.2), 80) == (
        "[#####---------------] copying it (5 of 20 pages), 3 s"
    )
    assert progress_bar(Progress("copying it", 20, 20, "pages"), 80).startswith(f"[{'#' * 20}] ")
    assert progress_bar(Progress("syncing the copy", seconds=61), 80) == "syncing the copy, 61 s"


@pytest.mark.parametrize("columns", [0, 1, 10, 40])
def test_a_bar_fits_its_terminal(columns: int) -> None:
    """It never wraps, because a wrapped line could not be removed."""
    assert len(progress_bar(Progress("copying it", 99, 9, "pages"), columns)) <= max(columns - 1, 0)
