"""How far a command is: a bar on a terminal, a line elsewhere, nothing with --json."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.progress import bar
from nextcloud_mcp_server.progress import Progress
from tests.cli.places import Shelf, environment

#: The command, in which copies are not verified before somebody was told that they are.
SLOW = """
import sys, time
from nextcloud_mcp_server import progress
from nextcloud_mcp_server.backends.sqlite import backup
from nextcloud_mcp_server.cli.main import main
progress.INTERVAL = 0.01
progress.LOG_INTERVAL = 0.02
told, words = set(), progress.Progress.__str__
def tell(self):
    told.add(self.phase)
    return words(self)
progress.Progress.__str__ = tell
real = backup.check_pages
def patiently(path):
    for _ in range(0 if "--json" in sys.argv else 1000):
        if "verifying the copy" in told:
            break
        time.sleep(0.01)
    return real(path)
backup.check_pages = patiently
sys.exit(main())
"""


def on_a_terminal(*arguments: str, cwd: Path, status: int = 0) -> tuple[str, str]:
    """What a command prints on stdout, and on a terminal that is its stderr."""
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


@pytest.mark.parametrize("words", [["upgrade"], ["upgrade", "--dry-run"], ["backup"]])
def test_a_terminal_gets_a_bar(words: list[str], shelf: Shelf, tmp_path: Path) -> None:
    """It is drawn over itself, and is gone at the end; stdout has the result alone."""
    shelf.put("behind", tmp_path / "t.db")
    out, shown = on_a_terminal("db", *words, "-d", "t.db", cwd=tmp_path)
    assert re.search(r"\r\x1b\[Kverifying the copy, \d+ s", shown)
    assert shown.endswith("\r\x1b[K")
    assert "\n" not in shown
    assert "\x1b" not in out


def _to_restore(shelf: Shelf, folder: Path) -> tuple[list[str], int]:
    shelf.put("at-head", folder / "t.db")
    shelf.put("behind", folder / "saved.db")
    return ["restore", "saved.db", "--yes"], 0


def _to_mend(shelf: Shelf, folder: Path) -> tuple[list[str], int]:
    shelf.put("two-rows", folder / "t.db")
    # The one secret in it has no key, which a repair cannot mend, and says.
    return ["repair", "--yes"], 1


@pytest.mark.parametrize("prepared", [_to_restore, _to_mend])
def test_what_is_replaced_or_mended_is_told_too(
    prepared: Callable[[Shelf, Path], tuple[list[str], int]], shelf: Shelf, tmp_path: Path
) -> None:
    """A restore and a repair draw their bar while they keep what was there."""
    words, status = prepared(shelf, tmp_path)
    _, shown = on_a_terminal("db", *words, "-d", "t.db", cwd=tmp_path, status=status)
    assert re.search(r"\r\x1b\[Kverifying the copy, \d+ s", shown)
    assert shown.endswith("\r\x1b[K")


def test_json_has_no_bar(shelf: Shelf, tmp_path: Path) -> None:
    """Whoever asked for a document reads nothing else."""
    shelf.put("behind", tmp_path / "t.db")
    out, shown = on_a_terminal("db", "upgrade", "--json", "-d", "t.db", cwd=tmp_path)
    assert (out[0], shown) == ("{", "")


def test_a_pipe_gets_lines(shelf: Shelf, tmp_path: Path) -> None:
    """Where stderr is no terminal, it has plain lines, with nothing to obey in them."""
    shelf.put("behind", tmp_path / "t.db")
    done = subprocess.run(
        [sys.executable, "-c", SLOW, "db", "upgrade", "-d", "t.db"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"^verifying the copy, \d+ s so far$", done.stderr, re.MULTILINE)
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


def test_a_bar_is_full_at_the_end() -> None:
    """Twenty characters for all there is; none where nobody knows how much that is."""
    assert bar(Progress("copying it", 5, 20, "pages", 3.2), 80) == (
        "[#####---------------] copying it (5 of 20 pages), 3 s"
    )
    assert bar(Progress("copying it", 20, 20, "pages"), 80).startswith(f"[{'#' * 20}] ")
    assert bar(Progress("syncing the copy", seconds=61), 80) == "syncing the copy, 61 s"


@pytest.mark.parametrize("columns", [0, 1, 10, 40])
def test_a_bar_fits_its_terminal(columns: int) -> None:
    """It never wraps, which would leave a line behind at every turn."""
    assert len(bar(Progress("copying it", 99, 9, "pages"), columns)) <= max(columns - 1, 0)
