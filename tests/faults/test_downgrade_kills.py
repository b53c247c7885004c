"""A killed or cut off downgrade that decrypts: the old database or the new one, and no loss."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.faults import powercut, scenarios
from tests.faults.checks import count_operations, digest, each_fault
from tests.faults.injection import KILL, Injector
from tests.faults.operations import store
from tests.faults.scenarios import Scenario
from tests.faults.test_powercut import record, write_files
from tests.faults.trials import Trials, sample, scaled, seeded
from tests.support.contents import KEY
from tests.support.invariants import secrets_in
from tests.support.revisions import HEAD
from tests.support.snapshot import snapshot

TOKENS = 40
TARGET = "102"

DOWN = Scenario(
    "a downgrade that decrypts", "downgrade_with_key", TARGET, lambda path: store(path, str(TOKENS))
)

#: What released versions find in the new database: Fernet texts differ in each run.
WANTED = {("refresh_tokens", f"user-{n}", "encrypted_token"): f"token-{n}" for n in range(TOKENS)}


def problem(path: Path, old: str) -> str:
    """Return what is wrong with a database after a kill; empty if it is the old or the new one."""
    seen = snapshot(path)
    if seen.versions == [HEAD]:
        return "" if digest(seen) == old else "the old database has changed"
    if seen.versions != [TARGET]:
        return f"it records {seen.versions}"
    return "" if secrets_in(seen, KEY) == WANTED else "a secret is lost"


def test_a_killed_downgrade_has_every_secret(
    injector: Injector, workspace: Path, trials: Trials
) -> None:
    """Either no secret has been taken back or all have, whatever file operation was the last."""
    source = scenarios.prepare(DOWN, workspace / "source")
    old = digest(snapshot(source))
    counted = count_operations(injector, DOWN, source)
    assert counted.end == "done", counted
    points = sample(range(1, counted.operations + 1), str(DOWN))
    for at, path, result in each_fault(injector, DOWN, source, KILL, points):
        assert result.end == "killed", (at, result)
        wrong = problem(path, old)
        trials.count(f"SIGKILL: {DOWN.do}", wrong and f"killed at {at}: {wrong}")
    trials.check()


def test_a_power_cut_leaves_every_secret(
    injector: Injector, workspace: Path, trials: Trials
) -> None:
    """The database is the old one or the new one, and the new one after the end."""
    recording = record(DOWN, injector, workspace)
    old = digest(snapshot(workspace / "recorded" / "source" / "tokens.db"))
    for cut, disk, acknowledged in powercut.states(recording, scaled(240), seeded(str(DOWN))):
        path = write_files(disk, workspace)
        wrong = problem(path, "" if "done" in acknowledged else old)
        trials.count(f"power cut: {DOWN.do}", wrong and f"after {cut}: {wrong}")
    trials.check()


def test_a_lost_secret_is_detected(injector: Injector, workspace: Path) -> None:
    """The check finds a change of the old database, and a secret that is lost in the new one."""
    source = scenarios.prepare(DOWN, workspace / "source")
    old = digest(snapshot(source))
    assert problem(source, "another") == "the old database has changed"
    assert injector.run(DOWN.do, source, argument=TARGET).end == "done"
    assert problem(source, old) == ""
    with closing(sqlite3.connect(source)) as connection:
        connection.execute(
            "UPDATE refresh_tokens SET encrypted_token = 'v2.' WHERE user_id = 'user-0'"
        )
        connection.commit()
    assert problem(source, old) == "a secret is lost"
