"""The pages about the fixtures and the example project match the fixtures."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import Final

from _pytest.fixtures import FixtureFunctionDefinition

from nextcloud_mcp_server import pytest_plugin
from nextcloud_mcp_server.settings.variables import VARIABLES
from nextcloud_mcp_server.testing.walk import MigrationWalk
from tests.plugin.runs import FUNCTION_LOOPS, project, run_pytest

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = (ROOT / "docs" / "reference" / "fixtures.md").read_text("utf-8")
GUIDE: Final = (ROOT / "docs" / "how-to" / "test-with-fixtures.md").read_text("utf-8")
EXAMPLE: Final = ROOT / "examples" / "embedding"


def _fixtures() -> dict[str, FixtureFunctionDefinition]:
    """The public fixtures of the plugin, by name."""
    return {
        name: value
        for name, value in vars(pytest_plugin).items()
        if isinstance(value, FixtureFunctionDefinition) and name[0] != "_"
    }


def test_every_fixture_has_its_section() -> None:
    """The reference has a section for each fixture, which begins with its docstring's summary."""
    sections = dict(re.findall(r"^## ([a-z_]+)\n\n(.+)$", REFERENCE, re.MULTILINE))
    summaries = {
        name: (inspect.getdoc(fixture) or "").partition("\n")[0].replace("``", "`")
        for name, fixture in _fixtures().items()
    }
    assert sections == summaries


def test_the_table_names_scopes_and_types() -> None:
    """The table has the scope and the type of each fixture."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `(.+)` \|$", REFERENCE, re.MULTILINE)
    there = []
    for name, fixture in _fixtures().items():
        gives = inspect.signature(inspect.unwrap(fixture)).return_annotation
        scope = fixture._fixture_function_marker.scope
        there.append((name, scope, re.sub(r"^Iterator\[(.+)\]$", r"\1", gives)))
    assert sorted(rows) == sorted(there)


def test_every_variable_and_every_member_is_named() -> None:
    """The reference names each variable of the environment and each public part of a walk."""
    members = {name for name, _ in inspect.getmembers(MigrationWalk) if name[0] != "_"}
    assert {name for name in VARIABLES if f"`{name}`" not in REFERENCE} == set()
    assert {n for n in members - {"close"} if not re.search(f"`{n}[(`]", REFERENCE)} == set()


def test_every_test_of_the_pages_passes(tmp_path: Path) -> None:
    """Each test in the pages passes as a file of its own."""
    found = re.findall(r"^```python\n(.+?)^```$", GUIDE + REFERENCE, re.MULTILINE | re.DOTALL)
    blocks = [text for text in found if "def test_" in text]
    files = {f"test_block_{number}": text for number, text in enumerate(blocks)}
    ran = run_pytest(project(tmp_path, **files), *FUNCTION_LOOPS)
    assert ran.counts == {"passed": len(blocks)}, ran.text


def test_the_example_project_passes(tmp_path: Path) -> None:
    """The example service's own tests pass, with its own settings of pytest, without a warning."""
    copy = tmp_path / "embedding"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    ran = run_pytest(copy)
    assert (ran.status, ran.counts) == (0, {"passed": 8}), ran.text
