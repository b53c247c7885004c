"""A migrated database for a test: the fixture ``token_db`` against copying the file.

pytest runs in a process of its own, because the fixture is measured where it is used: the
time of its setup, without that of what it asks pytest for, such as a folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Final

from tests.bench.harness import Pairs, Row, environment
from tests.bench.place import Place

#: Where the fixture is from; without it there is no figure.
PLUGIN: Final = "nextcloud_mcp_server.pytest_plugin"

#: Measures each setup of the fixture, and beside it a copy of the same file.
CONFTEST: Final = """
import json, pathlib, shutil, time
import pytest

pairs = []

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    begun = time.perf_counter()
    path = yield
    if fixturedef.argname == "token_db":
        taken = time.perf_counter() - begun
        begun = time.perf_counter()
        shutil.copyfile(path, f"{path}.copy")
        pairs.append((time.perf_counter() - begun, taken))
    return path

def pytest_sessionfinish():
    pathlib.Path("pairs.json").write_text(json.dumps(pairs))
"""

TESTS: Final = """
import pytest

@pytest.mark.parametrize("number", range({calls}))
def test_nothing(number, token_db):
    assert token_db.stat().st_size > 0
"""


def rows(place: Place) -> Iterator[Row]:
    """The figure of a migrated database for a test; none where there is no such fixture."""
    if importlib.util.find_spec(PLUGIN) is not None:
        yield copied(place).judged("a migrated database for a test", "copying the file", 3)


def copied(place: Place, plugin: str | None = None) -> Pairs:
    """Every setup of ``token_db`` but the first, which makes the template; and a copy each.

    Args:
        place: where the tests are written and run.
        plugin: a plugin that is not installed and is to be loaded.
    """
    folder = place.folder / "fixtures"
    folder.mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    (folder / "test_it.py").write_text(TESTS.format(calls=1 + place.scale.calls), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    extra = [] if plugin is None else ["-p", plugin]
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", str(folder / "t"), *extra]
    run(command, cwd=folder, env=environment(PYTHONPATH=path), capture_output=True, check=True)
    pairs = json.loads(Path(folder / "pairs.json").read_text("utf-8"))[1:]
    return Pairs(*(tuple(column) for column in zip(*pairs, strict=True)))
