"""Four processes that write for ten minutes, beside kills, full disks, clock jumps and commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.faults.injection import build_library
from tests.faults.trials import SEED, SHARE, Trials, seeded
from tests.support.child import ROOT
from tests.support.contents import KEY

PROCESSES: Final = 4

#: Seconds; ten minutes in full, a tenth of the trials takes eight seconds.
DURATION: Final = 600.0 if SHARE >= 1 else max(5.0, 80 * SHARE)

#: The commands that run beside the writers, and the exit codes that they may have. A restore is
#: refused there.
COMMANDS: Final = {
    "check": ("check",),
    "doctor": ("doctor",),
    "backup": ("backup", "--json"),
    "restore": ("restore", "--newest", "--yes"),
}
EXPECTED: Final = {"check": {0}, "doctor": {0, 3}, "backup": {0}, "restore": {1}}


class Writer:
    """One of the processes, which starts again after each kill.

    Attributes:
        acknowledged: the newest number that was acknowledged, by user.
        writes: how many writes were acknowledged.
        faults: how many faults it has met, by kind.
        wrong: what must not happen.
    """

    def __init__(self, path: Path, name: str, library: Path, *, early: bool = False) -> None:
        self._arguments = [str(path), name]
        self._early = "early" if early else ""
        self._environ = {**os.environ, "LD_PRELOAD": str(library)}
        self._name = name
        self._generation = 0
        self.acknowledged: dict[str, int] = {}
        self.writes = 0
        self.faults = Counter[str]()
        self.wrong: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it and wait until its store is open."""
        self._generation += 1
        first = str(self._generation * 1_000_000)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.faults.soak_process",
                *self._arguments,
                first,
                self._early,
            ],
            cwd=ROOT,
            env=self._environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if (line := self._process.stdout.readline().strip()) != "open":
            self.wrong.append(f"{self._name} did not start: {line}")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            user, _, number = line.rstrip("\n").partition(" ")
            # The last line of a killed process may be cut.
            if user == "wrong":
                self.wrong.append(line.strip())
            elif user == "fault":
                self.faults[number] += 1
            elif line.endswith("\n"):
                self.acknowledged[user] = int(number)
                self.writes += 1

    def kill(self) -> None:
        """Kill it and read what it has acknowledged."""
        if self._process.poll() is not None:
            self.wrong.append(f"{self._name} has ended by itself")
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def _writers(path: Path, library: Path, *, early: bool = False) -> Iterator[list[Writer]]:
    with ExitStack() as stack:
        writers = []
        for number in range(PROCESSES):
            writers.append(Writer(path, f"w{number}", library, early=early))
            stack.callback(writers[-1].kill)
        yield writers


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TOKEN_ENCRYPTION_KEY": KEY}
    command = [sys.executable, "-m", "nextcloud_mcp_server", "db", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


async def _tokens(path: Path) -> dict[str, int]:
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        users = await storage.list_user_ids()
        return {user: int((await storage.get_refresh_token(user)).token) for user in users}  # type: ignore[union-attr]


def _lost(acknowledged: dict[str, int], path: Path) -> list[str]:
    """Return the users of whom an acknowledged write, or a newer one, is not in the database."""
    there = asyncio.run(_tokens(path))
    return [
        f"{user}: {there.get(user)} instead of {number}"
        for user, number in acknowledged.items()
        if there.get(user, 0) < number
    ]


def _acknowledged(writers: list[Writer]) -> dict[str, int]:
    return {
        user: number for writer in writers for user, number in dict(writer.acknowledged).items()
    }


def _restored(backup: str, before: dict[str, int], other: Path) -> str:
    """Restore a backup as another file; return what that lacks of ``before``."""
    done = _command("restore", json.loads(backup)["backup"], "-d", other, "--yes")
    return done.stderr if done.returncode else "; ".join(_lost(before, other))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library of full disks and of clocks that jump."""
    built = build_library(tmp_path_factory.mktemp("soak"), "shim.c", "record.c", "clock.c")
    if built is None:
        pytest.skip("LD_PRELOAD and a C compiler are needed")
    return built


def test_a_soak_loses_no_acknowledged_write(workspace: Path, library: Path, trials: Trials) -> None:
    """Nothing acknowledged is lost or read wrong, and every command answers as it must."""
    path, rng = workspace / "data" / "tokens.db", seeded("soak")
    path.parent.mkdir(mode=0o700)
    # The commands answer otherwise before the first start and the first backup.
    assert asyncio.run(_tokens(path)) == {}
    assert _command("backup", "-d", path).returncode == 0
    seen, wrong = Counter[str](), list[str]()
    until = time.monotonic() + DURATION
    with _writers(path, library) as writers:
        while time.monotonic() < until:
            time.sleep(rng.uniform(0.05, 0.4))
            if rng.random() < 0.5:
                writer = rng.choice(writers)
                writer.kill()
                writer.start()
                seen["SIGKILL"] += 1
                continue
            name = rng.choice([*COMMANDS])
            before = _acknowledged(writers)
            done = _command(*COMMANDS[name], "-d", path)
            seen[name] += 1
            if done.returncode not in EXPECTED[name]:
                wrong.append(f"{name}: {done.returncode} {done.stdout}{done.stderr}")
            elif name == "restore" and "[in-use]" not in done.stderr:
                wrong.append(done.stderr)
            elif name == "backup":
                other = workspace / f"restored-{seen[name]}.db"
                wrong += [lacks] if (lacks := _restored(done.stdout, before, other)) else []
    wrong += [line for writer in writers for line in writer.wrong]
    wrong += _lost(_acknowledged(writers), path)
    trials.count("soak: acknowledged writes", times=sum(writer.writes for writer in writers))
    for kind, times in sum((writer.faults for writer in writers), seen).items():
        trials.count(f"soak: {kind}", times=times)
    assert not wrong, (SEED, wrong[:5])
    assert _command("check", "-d", path).returncode == 0


def test_a_write_that_is_acknowledged_too_early_is_seen(workspace: Path, library: Path) -> None:
    """The negative control: of a store that answers before the commit, a kill loses a write."""
    path = workspace / "data" / "tokens.db"
    path.parent.mkdir(mode=0o700)
    lost: list[str] = []
    with _writers(path, library, early=True) as (writer, *_):
        for _ in range(40):
            time.sleep(0.1)
            writer.kill()
            lost = _lost(writer.acknowledged, path)
            writer.start()
            if lost:
                break
    assert lost
