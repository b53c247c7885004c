"""What a migration prints is not part of the result of a command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.authoring.lint.folder import Folder, source, with_sql
from tests.cli.conftest import Command, Db
from tests.support.revisions import HEAD
from tests.support.scripts import SCRIPTS, used

NUMBER = f"{int(HEAD) + 1}"

#: The commands that load the migrations, in an order in which each has something to do.
COMMANDS = (
    ("show", NUMBER),
    ("show", NUMBER, "--down"),
    ("history",),
    ("current",),
    ("check",),
    ("upgrade", "--sql"),
    ("upgrade", "--dry-run"),
    ("upgrade",),
    ("doctor",),
    ("downgrade", "--yes"),
    ("stamp", HEAD),
    ("lint",),
)


@pytest.fixture
def printing(tmp_path: Path) -> Iterator[Folder]:
    """Migrations of which the newest prints when it is loaded and when it is run."""
    path = tmp_path / "alembic"
    shutil.copytree(SCRIPTS, path, ignore=shutil.ignore_patterns("__pycache__"))
    body = with_sql("CREATE TABLE IF NOT EXISTS x (id INTEGER)").replace(
        "grade():\n", "grade():\n    print('run')\n"
    )
    text = source(NUMBER, HEAD, f"print('loaded')\n\n{body}")
    with used(path):
        folder = Folder(path)
        folder.write(f"20990101_1200_{NUMBER}_add_it.py", text)
        yield folder


@pytest.mark.usefixtures("printing")
def test_what_a_migration_prints_is_not_the_result(db: Db, command: Command) -> None:
    """It is printed on stderr, so that with --json stdout is one document."""
    for arguments in COMMANDS:
        without = arguments[0] in {"show", "lint"}
        done = command("db", *arguments, "--json") if without else db(*arguments, "--json")
        assert json.loads(done.out), arguments
        assert {"loaded", "run"} <= set(done.err.splitlines()), arguments
