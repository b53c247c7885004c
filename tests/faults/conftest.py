"""What the fault suite shares: a process to hurt, a place to do it, and the count of trials.

``FAULT_SHARE=1`` runs every point (``uvx nox -s faults`` does); by default a tenth runs, which
``FAULT_SEED`` chooses. Both are printed first, and with the counts at the end. See ``share.py``.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Victim, build_shim
from tests.faults.tally import Tally


@pytest.fixture(scope="session")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A process whose file operations can be counted, failed and killed."""
    if not sys.platform.startswith("linux") or not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("LD_PRELOAD and a C compiler are needed")
    with Victim(build_shim(tmp_path_factory.mktemp("shim"))) as process:
        yield process


@pytest.fixture
def arena() -> Iterator[Path]:
    """A folder in memory where there is one: a process is killed, not the machine."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        # Copies that are made to look into a database need not touch a disk either.
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        patch.setattr(tempfile, "tempdir", str(scratch))
        yield Path(folder)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts the trials of this test, for the table that is printed at the end."""
    made = Tally()
    request.node.stash[TALLY] = made
    return made


TALLY = pytest.StashKey[Tally]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Send what a test has counted along with its report."""
    if call.when == "call" and TALLY in item.stash:
        item.user_properties.extend(item.stash[TALLY].properties())
    return (yield)
