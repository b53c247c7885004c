"""The commands as processes of a shell."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.cli.main import main
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import Shelf, environment, fingerprint, process
from tests.support.child import run_program
from tests.support.revisions import HEAD

#: Modules that commands which only inspect, and --help, must not import.
HEAVY = (
    *("aiosqlite", "alembic", "anyio", "asyncio", "concurrent.futures", "cryptography", "filelock"),
    *("logging", "platformdirs", "sqlalchemy", "starlette", "uvicorn"),
)

#: Modules that `db current` and `db check` must not import either.
SLOW = ("click", "dataclasses", "inspect", "json.tool", "urllib.request")

#: What they import of this package, and --help need not.
INSPECTING = ("nextcloud_mcp_server.backends", "nextcloud_mcp_server.migrate")

LIGHT = f"""
import sys
from nextcloud_mcp_server.cli.main import main
status = main()
names = {HEAVY + SLOW + INSPECTING!r}
print(status, *(name for name in names if name in sys.modules), file=sys.stderr)
"""

#: The command; it prints after a tenth of a second that it waits.
IMPATIENT = """
import sys
from nextcloud_mcp_server.backends.sqlite import lock
from nextcloud_mcp_server.cli.main import main
lock.TELL_INTERVAL = 0.1
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ("db current -d t.db", INSPECTING),
        ("db check -d t.db", INSPECTING),
        ("db --help", SLOW),
        ("--help", SLOW),
    ],
)
def test_inspecting_imports_nothing_slow(
    arguments: str, allowed: tuple[str, ...], shelf: Shelf, tmp_path: Path
) -> None:
    """`db current` and `db check` do not even import click, --help only click and its imports."""
    shelf.put("at-head", tmp_path / "t.db")
    done = process(*arguments.split(), cwd=tmp_path, code=LIGHT)
    status, *imported = done.err.split()
    assert (status, set(imported) - set(allowed)) == ("0", set())


def test_the_database_of_the_environment_is_printed_first(shelf: Shelf, tmp_path: Path) -> None:
    """Without -d the path and its setting are printed; DATABASE_URL has precedence."""
    path = shelf.put("at-head", tmp_path / "t.db")
    both = {"TOKEN_STORAGE_DB": "elsewhere.db", "DATABASE_URL": f"sqlite:///{path}"}
    done = process("db", "current", cwd=tmp_path, environ=both)
    assert done.out == f"database: {path} (from DATABASE_URL)\n{HEAD} (at-head)\n"
    done = process("db", "upgrade", cwd=tmp_path, environ={"TOKEN_STORAGE_DB": "t.db"})
    assert done.out == (
        f"database: {path} (from TOKEN_STORAGE_DB)\n"
        f"{path} is at revision {HEAD} already: nothing to do\n"
    )
    document = process("db", "current", "--json", cwd=tmp_path, environ=both)
    assert json.loads(document.out)["database"] == str(path)


def _shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$S`` is the command."""
    environ = environment(cwd, {"S": f"{sys.executable} -m nextcloud_mcp_server"})
    return run_program("bash", "-c", line, cwd=cwd, env=environ)


def test_a_closed_pipe_is_no_error(shelf: Shelf, tmp_path: Path) -> None:
    """`db history | head -1` prints no error, and a migration is finished without a reader."""
    shelf.put("behind", tmp_path / "t.db")
    done = _shell("$S db history -v -d t.db | head -1; echo ${PIPESTATUS[0]}", tmp_path)
    assert (done.stdout.splitlines()[1:], done.stderr) == (["0"], "")
    done = _shell("TOKEN_STORAGE_DB=t.db $S db upgrade | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert _shell("$S db check -d t.db", tmp_path).returncode == 0
    done = _shell("$S --help | true", tmp_path)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "name",
    [
        *("db current -d t.db", "db current --json -d t.db", "db upgrade -d t.db"),
        *("db history -d t.db", "--help", "db --help", "--version"),
    ],
)
def test_a_result_that_cannot_be_written_is_an_error(
    name: str, shelf: Shelf, tmp_path: Path
) -> None:
    """A full disk under stdout is an error with exit status 1."""
    shelf.put("at-head", tmp_path / "t.db")
    done = _shell(f"$S {name} >/dev/full", tmp_path)
    assert done.returncode == 1
    error, remedy = done.stderr.splitlines()[-2:]
    assert error == (
        "error: The result could not be written to stdout (No space left on device). [io-error]"
    )
    assert remedy.startswith("remedy: Send stdout to a terminal or to a disk with free space.")
    assert "unexpected" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_error_of_the_server_is_not_an_error_of_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An OSError of the server is printed as an unexpected error."""

    def fail(**_: object) -> int:
        raise OSError(errno.ENETDOWN, "Network is down")

    monkeypatch.setattr("nextcloud_mcp_server.server.run.serve", fail)
    assert main(["run"]) == 1
    assert capsys.readouterr().err.startswith("unexpected error: OSError: ")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_closed_streams_do_no_harm(closed: str, shelf: Shelf, tmp_path: Path) -> None:
    """Without stdin, stdout or stderr the work is done and the exit status is correct."""
    shelf.put("behind", tmp_path / "t.db")
    assert _shell(f"$S db upgrade -d t.db {closed}", tmp_path).returncode == 0
    assert _shell(f"$S db downgrade -d t.db {closed}", tmp_path).returncode == 1
    assert _shell(f"$S db check -d t.db {closed}", tmp_path).returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_path_is_printed_in_every_encoding(encoding: str, tmp_path: Path) -> None:
    """Characters that the terminal cannot show are escaped."""
    done = process(
        "db", "check", "-d", "grüße.db", cwd=tmp_path, environ={"PYTHONIOENCODING": encoding}
    )
    assert done.status == 3
    assert done.out.startswith(f"pending: {tmp_path}/gr")


def test_control_c_ends_the_wait_for_the_lock(shelf: Shelf, tmp_path: Path) -> None:
    """SIGINT ends it with status 130 and the revision of the unchanged database."""
    path = shelf.put("behind", tmp_path / "t.db")
    before = fingerprint(path)
    with (
        guard(path, 1),
        subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "db", "upgrade", "-d", "t.db"],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running,
    ):
        assert running.stderr is not None
        waiting = f"warning: Waiting for {path}: another process is starting on it\n"
        try:
            assert running.stderr.readline() == waiting
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=30)
        finally:
            # It waits for the lock that this test holds until it is gone.
            running.kill()
    assert (running.returncode, out) == (130, "")
    assert err.replace(waiting, "").strip() == (
        "error: Interrupted. It waited for a lock, and nothing was changed. [interrupted]\n"
        "remedy: Run the command again."
    )
    assert fingerprint(path) == before


def test_control_c_at_the_question_changes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    """SIGINT instead of an answer ends the command with status 130."""
    path = shelf.put("at-head", tmp_path / "t.db")
    before = fingerprint(path)
    with subprocess.Popen(
        [sys.executable, "-m", "nextcloud_mcp_server", "db", "downgrade", "-d", "t.db"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stderr is not None
        printed = b""
        while b"Go back? [y/N]" not in printed:
            printed += running.stderr.read(1)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert running.stderr.read() == (
            b" \nerror: Interrupted. Nothing was changed. [interrupted]\n"
            b"remedy: Run the command again.\n"
        )
    assert fingerprint(path) == before


@pytest.mark.parametrize("command", ["check", "upgrade", "backup", "doctor", "restore"])
def test_few_open_files_are_named(command: str, tmp_path: Path) -> None:
    """With a limit of a few open files a command works, or names the limit in one line."""
    path = tmp_path / "tokens.db"
    upgrade_database(path)
    back_up(path)
    arguments = f"{command} --newest --yes" if command == "restore" else command
    for limit in range(4, 12):
        code = f"""
import resource, sys
from nextcloud_mcp_server.cli.main import main
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
sys.exit(main({["db", *arguments.split(), "-d", str(path)]!r}))
"""
        done = process(cwd=tmp_path, code=code)
        assert "Traceback" not in done.err
        if done.status and command != "doctor":
            assert "too many files are open" in done.err, (limit, done)
            assert "ulimit -n" in done.err


@pytest.mark.parametrize("command", ["db upgrade", "db backup", "db doctor", "run"])
def test_a_clock_that_python_cannot_read_is_named(command: str, tmp_path: Path) -> None:
    """After 2262 every module that asks for the time fails; the clock is named."""
    code = f"""
import sys, time
from nextcloud_mcp_server.cli.main import main
def far() -> float:
    raise OverflowError("timestamp too large to convert to C _PyTime_t")
time.time = time.time_ns = far
sys.exit(main({command.split()!r}))
"""
    environ = {"TOKEN_STORAGE_DB": str(tmp_path / "tokens.db")}
    done = process(cwd=tmp_path, code=code, environ=environ)
    assert (done.status, "[bad-clock]" in done.err) == (1, True)
    assert "timedatectl" in done.err
    assert not list(tmp_path.iterdir())


def test_sigterm_while_the_server_is_imported_is_one_line(tmp_path: Path) -> None:
    """The import takes a part of a second: a signal in it ends the process as one in the start."""
    code = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from nextcloud_mcp_server.cli.main import main
class Signal(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "uvicorn":
            os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Signal())
sys.exit(main(["run", "--port", "0"]))
"""
    environ = {"TOKEN_STORAGE_DB": str(tmp_path / "tokens.db")}
    done = process(cwd=tmp_path, code=code, environ=environ)
    message = "Interrupted. The server was not started yet, and nothing was changed."
    assert (done.status, done.err) == (
        1,
        f"error: {message} [interrupted]\nremedy: Start it again.\n",
    )
    assert not list(tmp_path.iterdir())
