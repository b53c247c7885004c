"""A copy of the migration scripts, to which a test adds its own revisions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nextcloud_mcp_server.schema import history

SCRIPTS = Path(__file__).parents[2] / "alembic"

_HEADER = '''"""Example {number}."""

from alembic import op

revision = "{number}"
down_revision = "{below}"

'''


def copied_scripts(folder: Path) -> Path:
    """Copy the scripts of the checkout up to 010 into ``folder/alembic``."""
    target = folder / "alembic"
    later = [path.name for path in (SCRIPTS / "versions").glob("*_1??_*.py")]
    shutil.copytree(SCRIPTS, target, ignore=shutil.ignore_patterns("__pycache__", *later))
    for name in history.STRUCTURE_FILES.values():
        _cut(target / name)
    return target


def _cut(structures: Path) -> None:
    """Remove the structures of the later revisions from a generated file."""
    document = json.loads(structures.read_text("utf-8"))
    kept = {r: keys for r, keys in document["revisions"].items() if r <= "010"}
    used_keys = {key for keys in kept.values() for key in keys}
    tables = {key: table for key, table in document["tables"].items() if key in used_keys}
    text = json.dumps({"revisions": kept, "tables": tables}, indent=1)
    structures.write_text(f"{text}\n", "utf-8")


@contextmanager
def used(scripts: Path) -> Iterator[Path]:
    """Make the program use the scripts in ``scripts``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "locate_scripts", lambda: scripts)
        history.load_history.cache_clear()
        yield scripts
    history.load_history.cache_clear()


def add_revision(scripts: Path, body: str, number: str = "101", below: str = "010") -> Path:
    """Add a revision to the scripts; ``op`` is already imported."""
    path = scripts / "versions" / f"20261101_1200_{number}_example.py"
    path.write_text(_HEADER.format(number=number, below=below) + body, "utf-8")
    history.load_history.cache_clear()
    return path


def sql_revision(*statements: str) -> str:
    """Return the body of a revision that runs ``statements`` in upgrade() only."""
    calls = "\n".join(f"    op.execute({statement!r})" for statement in statements)
    return f"def upgrade() -> None:\n{calls}\n\n\ndef downgrade() -> None:\n    pass\n"
