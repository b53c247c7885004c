"""The built site."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.child import run_program

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"

#: As the session ``docs`` of nox calls it: warnings are errors, every reference must be found.
STRICT: Final = ("-W", "--keep-going", "-n", "-q", "-b", "html")


def build(source: Path, target: Path, options: Sequence[str] = ()) -> tuple[int, str]:
    """Build ``source`` with the project's configuration; return the status and the output."""
    sphinx = (sys.executable, "-m", "sphinx", *STRICT, "-c", DOCS)
    done = run_program(*sphinx, *options, source, target)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of ``DOCS_SITE``, else a new build."""
    if built := os.environ.get("DOCS_SITE"):
        return ROOT / built
    pytest.importorskip("sphinx", reason="the group `docs` is not installed")
    target = tmp_path_factory.mktemp("site")
    status, output = build(DOCS, target)
    assert status == 0, output
    assert not output, output
    return target
