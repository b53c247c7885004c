"""Fixtures of the fault tests: a process for faults, and a folder in memory.

``FAULT_SHARE=1`` runs every trial, as ``uvx nox -s faults`` does; see ``trials.py``.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.injection import Injector, build_library


@pytest.fixture(scope="session")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Injector]:
    """A process whose file operations can be counted, failed and killed."""
    shim = build_library(tmp_path_factory.mktemp("shim"), "shim.c", "record.c")
    if shim is None:
        pytest.skip("LD_PRELOAD and a C compiler are needed")
    with closing(Injector(shim)) as process:
        yield process


@pytest.fixture
def workspace() -> Iterator[Path]:
    """A folder in memory if there is one: processes are killed, not the machine."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        # The copies of a snapshot need no disk either.
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        patch.setattr(tempfile, "tempdir", str(scratch))
        yield Path(folder)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Disable logging."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)
