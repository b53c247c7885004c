"""The revisions on files that released versions wrote."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.migrations import facts
from tests.migrations.database import Database, columns_of, sqlite_engine

#: A file of a release with the portable types, by revision.
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
    """Open a copy of a file of the corpus."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        source = corpus / f"{name}.db{suffix}"
        if source.exists():
            shutil.copy(source, folder / f"tokens.db{suffix}")
    engine = sqlite_engine(folder / "tokens.db")
    yield Database(engine, "portable")
    await engine.dispose()


@pytest.mark.parametrize("revision", PORTABLE)
async def test_new_databases_are_those_of_the_releases(
    corpus: Path, tmp_path: Path, sqlite: Database, revision: str
) -> None:
    """The catalogue of a new database equals that of a release with these types."""
    (tmp_path / "theirs").mkdir()
    await sqlite.upgrade(revision)
    async with opened(corpus, PORTABLE[revision], tmp_path / "theirs") as theirs:
        assert await theirs.revision() == revision
        assert await sqlite.catalogue() == await theirs.catalogue()


@pytest.mark.parametrize("revision", RAW)
async def test_the_facts_are_those_of_the_earlier_releases(
    corpus: Path, tmp_path: Path, revision: str
) -> None:
    """The facts with raw types describe the files of the releases that used them."""
    async with opened(corpus, RAW[revision], tmp_path) as theirs:
        assert await theirs.revision() == revision
        assert await theirs.shape() == facts.tables(revision, "raw")


async def test_a_file_at_head_goes_back_to_every_revision(corpus: Path, tmp_path: Path) -> None:
    """A file of the newest release is downgraded step by step, and no grant changes."""
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
    """Return the columns of each table as sets."""
    return {name: set(columns) for name, columns in columns_of(tables).items()}
