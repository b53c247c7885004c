"""One victim process for all faults, and the databases that are hurt."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Victim, build_shim


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
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
