"""A migrated database for a test: the fixture ``token_db`` compared with a copy of the file.

pytest runs in a process of its own, because only the setup of the fixture is measured, without
the setup of fixtures that it uses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Final

from tests.bench.harness import Pairs, Row, environment
from tests.bench.place import Place

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
    """Yield the figure of a migrated database for a test."""
    yield copied(place).judged("a migrated database for a test", "copying the file", 3)


def copied(place: Place) -> Pairs:
    """Measure every setup of ``token_db`` after the first, which creates the template."""
    folder = place.folder / "fixtures"
    folder.mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(CONFTEST, "utf-8")
    (folder / "test_it.py").write_text(TESTS.format(calls=1 + place.scale.calls), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--basetemp", str(folder / "t")]
    run(command, cwd=folder, env=environment(), capture_output=True, check=True)
    pairs = json.loads(Path(folder / "pairs.json").read_text("utf-8"))[1:]
    return Pairs(*(tuple(column) for column in zip(*pairs, strict=True)))
