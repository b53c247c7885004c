"""SIGKILL and power cuts in the rotation and the retirement of a key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.audit.verify import verify
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.migrations import upgrade_database
from nextcloud_mcp_server.settings import Settings
from tests.faults import powercut, scenarios
from tests.faults.checks import count_operations, each_fault, integrity_problem
from tests.faults.injection import KILL, Injector
from tests.faults.operations import AT_ONCE, COMPACTED, KEYS, rotate_keys, store
from tests.faults.scenarios import Scenario
from tests.faults.test_negative_controls import losses
from tests.faults.test_powercut import record, write_files
from tests.faults.trials import Trials, sample, scaled, seeded
from tests.maintenance.keys.helpers import TOKEN, grant, opened
from tests.support.snapshot import opened_copy

RING: Final = Keyring(KEYS)
NEW, OLD = RING.keys

#: What was deleted before.
PLANTED: Final = "DELETED-"

#: Tokens of a released version, and of servers: several transactions of a rotation.
RELEASED, STORED = AT_ONCE, 2 * AT_ONCE + 1
TOKENS: Final = {f"user-{n}": f"token-{n}" for n in range(STORED)} | {
    f"old-{n}": f"token-old-{n}" for n in range(RELEASED)
}


def promoted(path: Path) -> None:
    """Create a database in which another key encrypts than the one of every secret."""
    upgrade_database(path)
    for user, token in TOKENS.items():
        if user.startswith("old-"):
            grant(path, user, OLD.encrypt_fernet(token.encode()))
    store(path, str(STORED))
    plant(path)
    introduce(Settings(path, KEYS))
    promote(Settings(path, KEYS), NEW.fingerprint)


def rotated(path: Path) -> None:
    """Create a database in which nothing needs the former key."""
    promoted(path)
    rotate_keys(path, "")
    plant(path)


def plant(path: Path) -> None:
    """Leave a value in free pages, as a version without ``secure_delete`` did."""
    with opened(path) as connection:
        for statement in (
            "PRAGMA secure_delete=OFF",
            f"CREATE TABLE planted AS SELECT '{PLANTED * 2_000}'",
            "DROP TABLE planted",
        ):
            connection.execute(statement)


def planted_problem(path: Path) -> str:
    """Return whether the value is there still, as text."""
    files = (path, path.with_name(f"{path.name}-wal"))
    left = [file.name for file in files if file.exists() and PLANTED.encode() in file.read_bytes()]
    return f"{' and '.join(left)} kept what was deleted" if left else ""


ROTATE: Final = Scenario("a rotation", "rotate_keys", make=promoted)
RETIRE: Final = Scenario("a retirement", "retire_keys", make=rotated)


def keys_problem(path: Path, *, is_done: bool) -> str:
    """Return what a rotation has left: each token opens, and those of the new key are recorded.

    ``is_done`` says whether every token must have the new key.
    """
    with opened_copy(path) as connection:
        rows = connection.execute(
            "SELECT user_id, token_audience, encrypted_token FROM refresh_tokens"
        ).fetchall()
        recorded = sorted(
            user
            for (user,) in connection.execute(
                "SELECT user_id FROM audit_logs WHERE event = 'rotate_secret'"
            )
        )
    found, new = {}, []
    for user, audience, text in rows:
        opened = RING.opened(text, binding(TOKEN, {"user_id": user, "token_audience": audience}))
        if opened is None:
            return f"the token of {user} does not open"
        found[user] = opened[1].decode().reveal()
        if text.startswith(b"v2.") and opened[0] is NEW:
            new.append(user)
    if found != TOKENS:
        return "a token is lost"
    if sorted(new) != recorded:
        return f"{len(new)} tokens were rotated, and {len(recorded)} were recorded"
    return f"{len(new)} tokens were rotated, not all" if is_done and len(new) < len(TOKENS) else ""


def rotation_problem(injector: Injector, path: Path, acknowledged: Iterable[str] = ()) -> str:
    """Return what is wrong after a fault in a rotation, and after the next rotation."""
    if wrong := keys_problem(path, is_done="done" in acknowledged):
        return wrong
    if COMPACTED in acknowledged and (wrong := planted_problem(path)):
        return wrong
    again = injector.restart(path, "rotate_keys")
    if again.end != "done":
        return f"the next rotation {again.end}: {again.code} {again.message}"
    wrong = keys_problem(path, is_done=True) or integrity_problem(path) or planted_problem(path)
    if not wrong and not verify(Settings(path, KEYS)).is_right:
        wrong = "the audit log does not match the secrets"
    return wrong


def retirement_problem(injector: Injector, path: Path, acknowledged: Iterable[str] = ()) -> str:
    """Return what is wrong after a fault in a retirement, for a store and in the next one."""
    done = {text.removeprefix("retired ") for text in acknowledged if text.startswith("retired ")}
    retired, recorded = _retired(path)
    if sorted(retired) != recorded or not done <= retired:
        return f"retired: {sorted(retired)}, recorded: {recorded}, acknowledged: {sorted(done)}"
    if COMPACTED in acknowledged and (wrong := planted_problem(path)):
        return wrong
    if asyncio.run(_tokens(path)) != TOKENS:
        return "a store does not read every token"
    again = injector.restart(path, "retire_keys")
    if again.end != "done":
        return f"the next retirement {again.end}: {again.code} {again.message}"
    if _retired(path) != ({"fernet", "v2"}, ["fernet", "v2"]):
        return "the key is not retired"
    return integrity_problem(path) or planted_problem(path)


def _retired(path: Path) -> tuple[set[str], list[str]]:
    """Return the formats for which the former key is retired, and those that are recorded."""
    with opened_copy(path) as connection:
        states = dict(
            connection.execute(
                "SELECT kind, state FROM keys WHERE fingerprint = ?", (OLD.fingerprint,)
            )
        )
        recorded = connection.execute(
            "SELECT resource_type FROM audit_logs WHERE event = 'retire_key'"
        ).fetchall()
    assert states.keys() == {"fernet", "v2"}
    return (
        {kind for kind, state in states.items() if state == "retired"},
        sorted(one.removesuffix("_key") for (one,) in recorded),
    )


async def _tokens(path: Path) -> dict[str, str]:
    """Return every token that a store with the new key reads."""
    found = {}
    async with RefreshTokenStorage(path, encryption_key=KEYS[0]) as storage:
        for user in await storage.list_user_ids():
            token = await storage.get_refresh_token(user)
            assert token is not None
            found[user] = token.token
    return found


Problem = Callable[[Injector, Path, Iterable[str]], str]

CASES = [
    pytest.param(ROTATE, rotation_problem, id="rotate"),
    pytest.param(RETIRE, retirement_problem, id="retire"),
]


@pytest.mark.parametrize(("scenario", "problem"), CASES)
def test_a_killed_change_of_keys_is_done_by_the_next_one(
    scenario: Scenario,
    problem: Problem,
    injector: Injector,
    workspace: Path,
    trials: Trials,
) -> None:
    """Each row has its old text or its new one with an entry; a key is retired or it is not."""
    source = scenarios.prepare(scenario, workspace / "source")
    counted = count_operations(injector, scenario, source)
    points = sample(range(1, counted.operations + 1), str(scenario))
    for at, path, result in each_fault(injector, scenario, source, KILL, points):
        assert result.end == "killed", (at, result)
        wrong = problem(injector, path, result.acknowledged)
        trials.count(f"SIGKILL: {scenario.do}", wrong and f"killed at {at}: {wrong}")
    trials.check()


@pytest.mark.parametrize(("scenario", "problem"), CASES)
def test_a_power_cut_leaves_no_secret_without_a_key(
    scenario: Scenario,
    problem: Problem,
    injector: Injector,
    workspace: Path,
    trials: Trials,
) -> None:
    """After a power cut at any operation each token opens, and what was acknowledged is there."""
    recording = record(scenario, injector, workspace)
    chance = seeded(str(scenario))
    for cut, disk, acknowledged in powercut.states(recording, scaled(400), chance):
        path = write_files(disk, workspace)
        wrong = problem(injector, path, acknowledged)
        trials.count(f"power cut: {scenario.do}", wrong and f"after {cut}: {wrong}")
    trials.check()


def killed(do: str, injector: Injector, workspace: Path) -> Iterator[str]:
    """Yield what is wrong after kills of another rotation."""
    scenario = Scenario("another rotation", do, make=promoted)
    source = scenarios.prepare(scenario, workspace / "source")
    points = range(1, count_operations(injector, scenario, source).operations + 1)
    for _, path, _ in each_fault(injector, scenario, source, KILL, points):
        yield keys_problem(path, is_done=False)


@pytest.mark.parametrize("scenario", [ROTATE, RETIRE], ids=["rotate", "retire"])
def test_a_file_that_is_not_compacted_is_detected(scenario: Scenario, workspace: Path) -> None:
    """The control: what was deleted before is in the file until the command has ended."""
    assert planted_problem(scenarios.prepare(scenario, workspace / "source"))


def test_entries_in_other_transactions_are_detected(injector: Injector, workspace: Path) -> None:
    """A rotation that records a row after its commit leaves a row without an entry."""
    assert any(
        "were recorded" in wrong for wrong in killed("rotate_in_two_commits", injector, workspace)
    )


@pytest.mark.parametrize(
    ("scenario", "problem", "found"),
    [
        pytest.param(ROTATE, rotation_problem, "not all", id="rotate"),
        pytest.param(RETIRE, retirement_problem, "acknowledged", id="retire"),
    ],
)
def test_a_change_of_keys_that_syncs_too_little_is_detected(
    scenario: Scenario, problem: Problem, found: str, injector: Injector, workspace: Path
) -> None:
    """It loses what it has acknowledged in a power cut, and nothing if it is only killed."""
    do = scenario.do.replace("_keys", "_with_normal")
    broken = replace(scenario, name=do, do=do)

    def check(path: Path, acknowledged: list[str]) -> str:
        return problem(injector, path, acknowledged)

    assert any(found in wrong for wrong in losses(injector, workspace, broken, 300, check))
    source = scenarios.prepare(broken, workspace / "source")
    every = count_operations(injector, broken, source).operations
    points = seeded(do).sample(range(1, every + 1), 4)
    for at, path, result in each_fault(injector, broken, source, KILL, points):
        assert problem(injector, path, result.acknowledged) == "", at
