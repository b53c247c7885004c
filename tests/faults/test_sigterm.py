"""SIGTERM at random moments of a real server's start: the next start has everything."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import environment
from tests.faults import scenarios
from tests.faults.injection import copy_database
from tests.faults.trials import SEED, Trials, scaled, seeded
from tests.support.contents import KEY
from tests.support.snapshot import Snapshot, snapshot

STORMS = 100

#: Seconds after the first output of a server within which its start ends.
START = 0.6

SCENARIOS = {name: scenarios.BEGINNINGS[name] for name in ("fresh", "pre-Alembic")}


def _storm(path: Path, rng: random.Random) -> tuple[int, str]:
    """Start a server on ``path``, send SIGTERM at a random time; return its status and output."""
    command = [sys.executable, "-m", "nextcloud_mcp_server", "run", "--port", "0"]
    environ = {"TOKEN_STORAGE_DB": str(path), "TOKEN_ENCRYPTION_KEY": KEY}
    with subprocess.Popen(
        command,
        cwd=path.parent,
        env=environment(path.parent, environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        output = ""
        if rng.random() < 0.8:
            # Most signals come during the start, few while Python imports modules.
            assert process.stdout is not None
            output = process.stdout.readline()
            time.sleep(rng.random() * START)
        else:
            time.sleep(rng.random() * 2 * START)
        process.send_signal(signal.SIGTERM)
        output += process.communicate(timeout=20)[0]
        return process.returncode, output


def _complete_afterwards(
    number: int, path: Path, before: Snapshot | None, base: str | None
) -> None:
    status, output = _storm(path, seeded(f"storm {number}"))
    at = f"seed {SEED}, storm {number}: {status}: {output}"
    # Before the program runs, no handler is installed.
    assert status in {0, 1} or (status == -signal.SIGTERM and not output), at
    assert "Traceback" not in output, at
    # The second one while the server is still imported.
    answers = ("The start was asked to stop", "The server was not started yet")
    assert status != 1 or any(answer in output for answer in answers), at
    upgrade_database(path)
    scenarios.assert_complete(path, before, base)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_start_may_be_asked_to_stop_at_any_moment(
    scenario: str, workspace: Path, trials: Trials
) -> None:
    """After SIGTERM at any time the server ends without a traceback, and the next start works."""
    source = scenarios.prepare(SCENARIOS[scenario], workspace / "source")
    before = snapshot(source) if source.exists() else None
    storms = range(scaled(STORMS // len(SCENARIOS)))
    paths = [copy_database(source, workspace / str(number)) for number in storms]
    with ThreadPoolExecutor(2) as pool:
        done = [
            pool.submit(_complete_afterwards, number, path, before, SCENARIOS[scenario].base)
            for number, path in zip(storms, paths, strict=True)
        ]
        for one in done:
            one.result()
            trials.count("SIGTERM during a server's start")


def test_the_harness_detects_a_server_that_dies_in_the_middle(workspace: Path) -> None:
    """Negative control: an upgrade with a commit per statement is incomplete after a signal."""
    source = scenarios.prepare(SCENARIOS["pre-Alembic"], workspace / "source")
    half = 0
    for number in range(20):
        path = copy_database(source, workspace / str(number))
        with subprocess.Popen(
            [sys.executable, "-c", _NAIVE, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(number / 400)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        half += 0 < sum(name.startswith("step_") for name in snapshot(path).rows) < 50
        if half:
            break
    assert half > 0


_NAIVE = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
print("begun", flush=True)
for number in range(50):
    connection.execute(f"CREATE TABLE step_{number} (id INTEGER PRIMARY KEY)")
    time.sleep(0.001)
"""
