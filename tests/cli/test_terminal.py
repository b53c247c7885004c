"""The output of `db doctor` and `db log` on a terminal of 80 columns."""

from __future__ import annotations

import errno
import os
import pty
import re
import subprocess
import sys

import pytest

from tests.cli.conftest import Db

_COLOUR = re.compile(r"\x1b\[\d+m")
_AMOUNT = re.compile(r"[0-9.]+ GB")


def on_a_terminal(*arguments: str, **environ: str) -> list[str]:
    """Return the lines that a command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "nextcloud_mcp_server", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "80", **environ},
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError as error:
        # Linux says so at the end of a terminal.
        assert error.errno == errno.EIO
    finally:
        os.close(ours)
        child.wait(60)
    return [line.rpartition("\x1b[K")[2] for line in said.decode().splitlines()]


def too_long(lines: list[str]) -> list[str]:
    """Return the lines that are longer than 80 columns and could be wrapped."""
    plain = [_COLOUR.sub("", line) for line in lines]
    return [line for line in plain if len(line) > 80 and " " in line.strip()]


@pytest.mark.parametrize("state", ["at-head", "behind", "two-rows", "corrupt", "missing"])
def test_the_doctor_fits_a_terminal(state: str, db: Db) -> None:
    """Long findings are wrapped; a command is on a line of its own, so that it can be copied."""
    db.put(state)
    lines = on_a_terminal("db", "doctor", "-d", str(db.path))
    commands = [line for line in lines if line.startswith(("         fix it: ", "to fix "))]
    assert too_long([line for line in lines if line not in commands]) == []
    piped = db("doctor").out
    for line in commands:
        assert line.strip() in piped
    # The free space changes between the two.
    text, piped = (_AMOUNT.sub("N GB", one) for one in (_COLOUR.sub("", "\n".join(lines)), piped))
    for line in piped.splitlines():
        assert " ".join(line.partition("; fix it: ")[0].split()[:4]) in " ".join(text.split())


def test_levels_have_colours_on_a_terminal_only(db: Db) -> None:
    """NO_COLOR and a pipe end them."""
    db.put("two-rows")
    arguments = ("db", "doctor", "-d", str(db.path))
    coloured = "\n".join(on_a_terminal(*arguments))
    assert "\x1b[31merror  \x1b[0m  state: " in coloured
    assert "\x1b[32mok     \x1b[0m  " in coloured
    assert "\x1b" not in "\n".join(on_a_terminal(*arguments, NO_COLOR="1"))
    assert "\x1b" not in db("doctor").out


def test_the_log_fits_a_terminal(db: Db) -> None:
    """The name of a backup is on a line of its own."""
    db.put("at-head")
    db("stamp", "base", "--yes")
    lines = on_a_terminal("db", "log", "-d", str(db.path))
    head, stamp, backup, create = lines
    assert head.split() == ["when", "what", "from", "to", "seconds", "program", "host"]
    assert re.match(r"    backup: tokens\.db\.backup-\S+$", backup)
    assert (stamp.split()[2], create.split()[2]) == ("stamp", "create")
    assert too_long(lines) == []
    assert len(db("log").out.splitlines()) == 3
