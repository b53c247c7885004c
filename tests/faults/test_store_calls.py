"""Generated calls of the store: values read back as given, or bad-input without a write."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from functools import reduce
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.errors import TokenStorageError
from tests.faults.store_calls import READS, Method, methods
from tests.faults.trials import SEED, Trials, scaled, seeded
from tests.support.contents import KEY, NOW

CALLS = 10_000


def test_every_method_that_writes_is_read_back(tmp_path: Path) -> None:
    """The table of what reads back names every method that stores more than an audit entry."""
    writing = ("store", "create", "update")
    paths = {method.path for method in methods(RefreshTokenStorage(tmp_path / "tokens.db"))}
    assert len(paths) > len(READS)
    assert {p for p in paths if p.rpartition(".")[2].partition("_")[0] in writing} == set(READS)


async def test_what_is_accepted_reads_back_and_the_rest_writes_nothing(
    workspace: Path, trials: Trials
) -> None:
    """An accepted value reads back equal; everything else is bad-input, and nothing is written."""
    rng, ends = seeded("inputs"), Counter[str]()
    path = workspace / "tokens.db"
    async with RefreshTokenStorage(path, encryption_key=KEY, clock=lambda: NOW) as storage:
        every = [*methods(storage)]
        # Four calls of five store something and read it back.
        writing = [method for method in every if method.path in READS]
        with closing(sqlite3.connect(path)) as watcher:
            for number in range(scaled(CALLS)):
                method = rng.choice(writing if number % 5 else every)
                given = {name: make(rng) for name, make in method.takes.items()}
                try:
                    ends[await _call(storage, watcher, method, given)] += 1
                except Exception as error:
                    error.add_note(f"seed {SEED}, call {number}: {method.path}({given!r:.400})")
                    raise
    trials.count("generated calls of the store", times=ends.total())
    assert ends["accepted"] > ends.total() / 4, ends
    assert ends["bad-input"] > ends.total() / 20, ends


async def _call(
    storage: RefreshTokenStorage,
    watcher: sqlite3.Connection,
    method: Method,
    given: Mapping[str, Any],
) -> str:
    before = _commits(watcher)
    try:
        answer = await _method(storage, method.path)(**given)
    except TokenStorageError as error:
        taken = {"conflict"} if method.path.startswith(("oauth_sess", "browser_sess")) else set()
        assert error.code in {"bad-input"} | taken, error.message
        assert _commits(watcher) == before
        return error.code
    if answer is not False and method.path in READS:
        await _reads_back(storage, method, given)
    return "accepted"


def _commits(watcher: sqlite3.Connection) -> int:
    """A number that changes with every commit of another connection."""
    number: int = watcher.execute("PRAGMA data_version").fetchone()[0]
    return number


async def _reads_back(
    storage: RefreshTokenStorage, method: Method, given: Mapping[str, Any]
) -> None:
    path, key = READS[method.path]
    found = await _method(storage, path)(*([given[key]] if key else []))
    for name, value in given.items():
        # Of a browser only a hash is stored, which a request is compared with.
        if method.is_ignored(name, value) or name == "browser_id":
            continue
        there = getattr(found, "token" if name == "refresh_token" else name)
        if name == "mcp_authorization_code" and value is not None:
            value = hashed(value)  # noqa: PLW2901 - only that is stored
        assert there == _kept(value, empty=not method.is_none_if_empty(name)), name


def _kept(value: Any, *, empty: bool) -> Any:
    if isinstance(value, dict):
        return json.loads(json.dumps(value))
    if value is None or isinstance(value, str | int | bool):
        return value
    return tuple(value) if value or empty else None


def _method(storage: RefreshTokenStorage, path: str) -> Any:
    return reduce(getattr, path.split("."), storage)


async def test_the_harness_detects_a_store_that_changes_values(workspace: Path) -> None:
    """Negative control: a store that strips its texts is found out within a few calls."""
    rng = random.Random(1)  # noqa: S311 - to be repeated, not to be secret
    path = workspace / "tokens.db"
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        [method] = (m for m in methods(storage) if m.path == "browser_sessions.create")
        create = storage.browser_sessions.create

        async def broken_case(session_id: str, user_id: str, *, expires_at: int) -> None:
            await create(session_id, user_id.strip(), expires_at=expires_at)

        changed = 0
        for number in range(200):
            given = {name: make(rng) for name, make in method.takes.items()}
            given["session_id"] = f"session-{number:022}"
            try:
                await broken_case(**given)
                await _reads_back(storage, method, given)
            except AssertionError:
                changed += 1
            except (TokenStorageError, AttributeError):
                continue
    assert changed > 0
