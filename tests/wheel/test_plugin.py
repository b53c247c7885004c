"""The pytest plugin of the built wheel, in the tests of another service."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from tests.plugin.runs import run_pytest
from tests.wheel.conftest import CHECKOUT

_WHERE = """
import nextcloud_mcp_server

def test_where_the_package_is():
    assert nextcloud_mcp_server.__file__.startswith({folder!r})
"""


def test_the_wheel_brings_the_fixtures(wheel: Path, tmp_path: Path) -> None:
    """With the wheel's package and entry point first on the path, the example's tests pass."""
    unpacked, copy = tmp_path / "unpacked", tmp_path / "embedding"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        [entry_points] = [n for n in archive.namelist() if n.endswith("/entry_points.txt")]
        assert "[pytest11]" in archive.read(entry_points).decode()
    example = CHECKOUT / "examples" / "embedding"
    shutil.copytree(example, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (copy / "test_where.py").write_text(_WHERE.format(folder=str(unpacked)), "utf-8")

    ran = run_pytest(copy, python_path=unpacked)

    assert (ran.status, ran.counts) == (0, {"passed": 9}), ran.text
