"""Ten thousand generated calls of the store: read back as given, or refused before a write."""

from __future__ import annotations

import inspect
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
from nextcloud_mcp_server.errors import TokenStorageError
from tests.faults.methods import METHODS, Method
from tests.faults.share import SEED, amount, chance
from tests.faults.tally import Tally
from tests.support.contents import KEY, NOW

CALLS = 10_000

#: Four calls of five write something and are asked for it again.
WRITING = tuple(method for method in METHODS if method.reads)


def _public(storage: RefreshTokenStorage) -> set[str]:
    """Every public coroutine method of the store and of its concerns."""
    found = set()
    for name in (n for n in dir(storage) if not n.startswith("_")):
        member = getattr(storage, name)
        if inspect.iscoroutinefunction(member):
            found.add(name)
        found |= {
            f"{name}.{inner}"
            for inner in dir(member)
            if not inner.startswith("_") and inspect.iscoroutinefunction(getattr(member, inner))
        }
    return found - {"initialize", "close"}


def test_every_public_method_is_called(tmp_path: Path) -> None:
    """The table of what is called names every public method of the store, and no other."""
    storage = RefreshTokenStorage(tmp_path / "tokens.db")
    assert {method.path for method in METHODS} == _public(storage)


async def test_what_is_accepted_reads_back_and_the_rest_writes_nothing(
    arena: Path, tally: Tally
) -> None:
    """An accepted value reads back equal; everything else is bad-input, and nothing is written."""
    dice, ends = chance("inputs"), Counter[str]()
    path = arena / "tokens.db"
    async with RefreshTokenStorage(path, encryption_key=KEY, clock=lambda: NOW) as storage:
        with closing(sqlite3.connect(path)) as watcher:
            for number in range(amount(CALLS)):
                method = dice.choice(WRITING if number % 5 else METHODS)
                given = {name: make(dice) for name, make in method.takes.items()}
                try:
                    ends[await _call(storage, watcher, method, given)] += 1
                except Exception as error:
                    error.add_note(f"seed {SEED}, call {number}: {method.path}({given!r:.400})")
                    raise
    tally.count("generated calls of the store", times=ends.total())
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
    if answer is not False and method.reads:
        await _reads_back(storage, method, given)
    return "accepted"


def _commits(watcher: sqlite3.Connection) -> int:
    """A number that changes with every commit of another connection."""
    number: int = watcher.execute("PRAGMA data_version").fetchone()[0]
    return number


async def _reads_back(
    storage: RefreshTokenStorage, method: Method, given: Mapping[str, Any]
) -> None:
    assert method.reads is not None
    path, key = method.reads
    found = await _method(storage, path)(*([given[key]] if key else []))
    for name, value in given.items():
        if value is None and name in method.unless_none:
            continue
        there = getattr(found, method.names.get(name, name))
        assert there == _kept(value, empty=name not in method.none_for_empty), name


def _kept(value: Any, *, empty: bool) -> Any:
    if isinstance(value, dict):
        return json.loads(json.dumps(value))
    if value is None or isinstance(value, str | int | bool):
        return value
    return tuple(value) if value or empty else None


def _method(storage: RefreshTokenStorage, path: str) -> Any:
    return reduce(getattr, path.split("."), storage)


async def test_the_harness_tells_a_store_that_changes_values(arena: Path) -> None:
    """Negative control: a store that strips its texts is found out within a few calls."""
    dice = random.Random(1)  # noqa: S311 - to be repeated, not to be secret
    [method] = (m for m in METHODS if m.path == "browser_sessions.create")
    path = arena / "tokens.db"
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        create = storage.browser_sessions.create

        async def careless(session_id: str, user_id: str, *, expires_at: int) -> None:
            await create(session_id, user_id.strip(), expires_at=expires_at)

        changed = 0
        for number in range(200):
            given = {name: make(dice) for name, make in method.takes.items()}
            given["session_id"] = f"session-{number}"
            try:
                await careless(**given)
                await _reads_back(storage, method, given)
            except AssertionError:
                changed += 1
            except (TokenStorageError, AttributeError):
                continue
    assert changed > 0
