"""Thirty-two processes at once, of four kinds: all of them succeed, and one migrates."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults import scenes
from tests.faults.crowd import Ended, Nursery, Order
from tests.faults.share import SEED, SHARE, chance
from tests.faults.tally import Tally
from tests.support import shapes
from tests.support.contents import KEY
from tests.support.snapshot import snapshot

PROCESSES = 32 if SHARE >= 1 else 8
ROUNDS = 10

#: What a round begins with: a database, and the revision that it counts as.
BEGINNINGS = {
    "fresh": scenes.Scene("fresh", ""),
    "pre-Alembic": scenes.Scene("", "", make=scenes.of(scenes.NARROW), base="001"),
    "old": scenes.Scene("", "", make=scenes.of(shapes.at("005", "raw")), base="005"),
    "current": scenes.Scene("", "", make=scenes.of(shapes.at("010")), base="010"),
}

#: Seconds that a crowd may take, each waiting for all the others.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """The process that forks the program."""
    with Nursery() as process:
        yield process


def _orders(path: Path, *, fresh: bool, name: str) -> list[Order]:
    environ = {"TOKEN_STORAGE_DB": str(path), "TOKEN_ENCRYPTION_KEY": KEY}
    kinds = (
        ("run", "--port", "0"),
        ("db", "upgrade"),
        ("alembic", "-x", f"database_url={path}", "upgrade", "head"),
        # Of a database that is not there yet there is nothing to back up.
        *(() if fresh else (("db", "backup"),)),
    )
    orders = [Order(kinds[n % len(kinds)], environ=environ) for n in range(PROCESSES)]
    chance(name).shuffle(orders)
    return orders


def _has_migrated(ended: Ended) -> bool:
    """Whether it says that it did; "stamped" and "upgraded" begin a line of the program."""
    lines = ended.said.splitlines()
    if ended.order.arguments[0] == "alembic":
        return any("Running upgrade" in line for line in lines)
    return any(line.startswith(("created ", "stamped ", "upgraded ")) for line in lines)


def _journal(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        [(number,)] = connection.execute("SELECT count(*) FROM migration_journal")
        return int(number)


def _begin(beginning: str, folder: Path, nursery: Nursery) -> Path:
    path = scenes.prepare(BEGINNINGS[beginning], folder)
    if beginning == "current":
        [ended] = nursery.run([Order(("db", "upgrade", "-d", str(path)))])
        assert ended.status == 0, ended
    return path


@pytest.mark.parametrize("number", range(ROUNDS if SHARE >= 1 else 1))
def test_a_mixed_crowd_succeeds_and_one_migrates(
    number: int, nursery: Nursery, arena: Path, tally: Tally
) -> None:
    """Servers, upgrades, backups and Alembic itself at once: all succeed, one migrates."""
    names = [*BEGINNINGS]
    beginning = names[(SEED + number) % len(names)]
    path = _begin(beginning, arena / "crowd", nursery)
    before = snapshot(path) if path.exists() else None
    journal = _journal(path) if beginning == "current" else 0
    orders = _orders(path, fresh=before is None, name=f"crowd {number}")
    ended = nursery.run(orders, PATIENCE)
    tally.count("processes in a mixed crowd", times=len(ended))
    failed = [one for one in ended if one.status != 0 or "Traceback" in one.said]
    assert failed == [], f"seed {SEED}, round {number}, {beginning}"
    migrations = [one for one in ended if _has_migrated(one)]
    assert len(migrations) == (0 if beginning == "current" else 1), f"seed {SEED}, {beginning}"
    assert _journal(path) - journal == len(migrations), migrations
    scenes.whole(path, before, BEGINNINGS[beginning].base)


def test_the_harness_tells_a_start_without_a_lock(nursery: Nursery, arena: Path) -> None:
    """Negative control: without the lock some of a crowd fail, or several migrate."""
    path = scenes.prepare(BEGINNINGS["old"], arena / "crowd")
    ended = nursery.run([Order(("careless", "db", "upgrade", "-d", str(path)))] * 12, PATIENCE)
    well = [one for one in ended if one.status == 0]
    assert len(well) < len(ended) or sum(map(_has_migrated, ended)) > 1
