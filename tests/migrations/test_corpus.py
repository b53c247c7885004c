"""The revisions against files that released versions wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.migrations import facts
from tests.migrations.database import Database, columns_of, sqlite_engine
from tests.migrations.revisions.rows_004_rewrite_scope_separators import SCOPES

#: A file that a release with the portable types made at this revision.
PORTABLE: Final = {
    "006": "stage_rev006p2_f2b7bf13",
    "007": "stage_rev007b_973f80e7_v0.109.0",
    "008": "stage_rev008_232684e8_v0.119.0",
    "009": "stage_rev009_f9cd8e8f",
    "010": "stage_rev010_58ce64aa",
}
RAW: Final = {
    "001": "stage_rev001_3fa37690",
    "003": "stage_rev003b_v0.65.0",
    "004": "stage_rev004_29fd0486_v0.68.4",
    "005": "stage_rev005_15dbb263",
    "006": "stage_rev006_4c84d829_v0.79.1",
}


@asynccontextmanager
async def opened(corpus: Path, name: str, folder: Path) -> AsyncIterator[Database]:
    """A copy of a file of the corpus."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        source = corpus / f"{name}.db{suffix}"
        if source.exists():
            shutil.copy(source, folder / f"tokens.db{suffix}")
    engine = sqlite_engine(folder / "tokens.db")
    yield Database(engine, "portable")
    await engine.dispose()


def sidecars(corpus: Path) -> list[Path]:
    """The description of every file."""
    return sorted(corpus.glob("*.json"))


def sidecar(path: Path) -> dict[str, Any]:
    """What a file of the corpus holds, and what is to be done with it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("revision", PORTABLE)
async def test_new_databases_are_those_of_the_releases(
    corpus: Path, tmp_path: Path, sqlite: Database, revision: str
) -> None:
    """What the revisions make, and what a release with these types made, is one text."""
    (tmp_path / "theirs").mkdir()
    await sqlite.upgrade(revision)
    async with opened(corpus, PORTABLE[revision], tmp_path / "theirs") as theirs:
        assert await theirs.revision() == revision
        assert await sqlite.catalogue() == await theirs.catalogue()


@pytest.mark.parametrize("revision", RAW)
async def test_the_facts_are_those_of_the_earlier_releases(
    corpus: Path, tmp_path: Path, revision: str
) -> None:
    """The raw notation of the facts describes the files of the releases that had it."""
    async with opened(corpus, RAW[revision], tmp_path) as theirs:
        assert await theirs.revision() == revision
        assert await theirs.shape() == facts.tables(revision, "raw")


def migrates(action: str) -> bool:
    """Whether the revisions alone take it to head, or it is there.

    Not where the version row is ahead of the tables: there the program mends first.
    """
    return action == "none" or (action.endswith("->head") and not action.startswith("repair->0"))


def known_gaps(about: dict[str, Any]) -> set[str]:
    """Tables that the file lacks although its revision has them: the program fills these."""
    lacking = about.get("diff_vs_recorded")
    return {*lacking["missing_tables"], *lacking["missing_columns"]} if lacking else set()


async def test_every_file_of_ours_reaches_head_with_its_rows(corpus: Path, tmp_path: Path) -> None:
    """Whatever releases, kills and downgrades left, the revisions complete it."""
    head = columns_of(facts.tables(facts.HEAD))
    count = 0
    for path in sidecars(corpus):
        about = sidecar(path)
        if not migrates(about["expected"]["action"]):
            continue
        folder = tmp_path / path.stem
        folder.mkdir()
        async with opened(corpus, path.stem, folder) as database:
            kept = {
                table: [name for name in columns if (table, name) not in SCOPES]
                for table, columns in columns_of(await database.shape()).items()
                if table != "registered_webhooks"
            }
            rows = await database.rows(kept)
            await database.upgrade()
            assert await database.revision() == facts.HEAD, path.stem
            assert await database.rows(kept) == rows, path.stem
            there = {n.lower(): set(c) for n, c in columns_of(await database.shape()).items()}
            for table in head.keys() - known_gaps(about):
                assert set(head[table]) <= there[table], (path.stem, table)
        shutil.rmtree(folder)
        count += 1
    assert count > 100


async def test_a_file_at_head_goes_back_to_every_revision(corpus: Path, tmp_path: Path) -> None:
    """A file of the newest release goes up and down step by step, and no grant changes."""
    async with opened(corpus, "lived_E_from_v0.32.0__at_v0.181.0", tmp_path) as database:
        grants = {"refresh_tokens": columns_of(facts.tables("001"))["refresh_tokens"]}
        rows = await database.rows(grants)
        assert rows["refresh_tokens"]
        await database.upgrade()
        for revision in reversed(facts.REVISIONS[:-1]):
            await database.downgrade(revision)
            assert sets(await database.shape()) == sets(facts.tables(revision)), revision
            assert await database.rows(grants) == rows, revision


def sets(tables: dict[str, facts.Table]) -> dict[str, set[str]]:
    """The columns of each table, in any order."""
    return {name: set(columns) for name, columns in columns_of(tables).items()}
