"""The import contracts of ``pyproject.toml`` fail on a planted import."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.support.child import run_program

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = "nextcloud_mcp_server"

#: Modules that may import an engine.
MAY_IMPORT_ENGINE: Final = {"backends", "maintenance", "testing"}

#: The id of a contract, the module that gets an import, and the import.
PLANTED: Final = [
    ("house", "schema/history.py", f"import {PACKAGE}.migrate.plan"),
    ("circles", "schema/structure.py", f"import {PACKAGE}.schema.history"),
    ("engine", "migrate/plan.py", f"import {PACKAGE}.backends.sqlite.lock"),
    ("engine", "cli/root.py", f"from {PACKAGE}.backends import sqlite"),
    ("house", "lifespan.py", f"import {PACKAGE}.nextcloud.errors"),
    ("nextcloud", "nextcloud/files.py", f"import {PACKAGE}.settings"),
    ("light", "migrate/plan.py", "import httpx2"),
]


def _lint(folder: Path, contract: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    return run_program(command, "--no-cache", "--contract", contract, cwd=folder)


@pytest.mark.parametrize(("contract", "module", "statement"), PLANTED)
def test_a_planted_import_is_detected(
    contract: str, module: str, statement: str, tmp_path: Path
) -> None:
    """A contract holds for a copy of the package and fails when one import is added."""
    ignored = shutil.ignore_patterns("__pycache__", "_alembic")
    shutil.copytree(ROOT / PACKAGE, tmp_path / PACKAGE, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    kept = _lint(tmp_path, contract)
    assert kept.returncode == 0, kept.stdout

    with (tmp_path / PACKAGE / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{statement}\n")
    broken = _lint(tmp_path, contract)
    assert broken.returncode == 1, broken.stdout
    assert "1 broken" in broken.stdout


def test_the_engine_contract_names_every_other_module() -> None:
    """A new module is either in the contract or may import an engine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    [contract] = [c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "engine"]
    named = {name.removeprefix(f"{PACKAGE}.") for name in contract["source_modules"]}
    modules = {p.stem for p in (ROOT / PACKAGE).iterdir() if p.suffix == ".py" or p.is_dir()}
    modules -= {"__init__", "__main__", "__pycache__", "_alembic"}
    assert named == modules - MAY_IMPORT_ENGINE
