"""The examples pass a strict type checker, as a user's own code would."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.conftest import DOCS, ROOT
from tests.support.child import run_program
from tests.wheel.documents import blocks

PAGE: Final = DOCS / "how-to" / "embed.md"

MIGRATION: Final = '''
import sqlalchemy as sa

from nextcloud_mcp_server.migrations import guards


def upgrade() -> None:
    """Add notes."""
    guards.create_table("notes", sa.Column("id", sa.Text(), primary_key=True))
    count: int = guards.rewrite("notes", lambda row: {"id": row["id"]}, columns=["id"], where="0")
    assert count == 0
'''

#: pyright's command; basedpyright includes it without a download.
PYRIGHT: Final = shutil.which("pyright") or shutil.which("basedpyright")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The blocks of the page and the example application, as files of one folder."""
    folder = tmp_path / "examples"
    folder.mkdir()
    for block in blocks(PAGE):
        if block.language == "python":
            (folder / f"block_{block.line}.py").write_text(block.text, "utf-8")
    (folder / "migration.py").write_text(MIGRATION, "utf-8")
    for path in (ROOT / "examples" / "embedding").glob("*.py"):
        shutil.copy(path, folder)
    return folder


def _run(*command: str, folder: Path) -> None:
    done = run_program(*command, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_pass_mypy(examples: Path) -> None:
    """mypy accepts each example in strict mode."""
    pytest.importorskip("mypy")
    cache = ROOT / ".mypy_cache" / "examples"
    options = ("--strict", "--no-error-summary", "--cache-dir", str(cache))
    _run(sys.executable, "-m", "mypy", *options, ".", folder=examples)


@pytest.mark.skipif(PYRIGHT is None, reason="no pyright is installed")
def test_the_examples_pass_pyright(examples: Path) -> None:
    """pyright accepts each example in strict mode."""
    config = '{"typeCheckingMode": "strict", "reportMissingModuleSource": false}'
    (examples / "pyrightconfig.json").write_text(config, "utf-8")
    _run(str(PYRIGHT), "--pythonpath", sys.executable, folder=examples)
