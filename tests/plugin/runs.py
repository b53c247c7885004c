"""Run pytest in another process, on a project of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: Settings of a developer's shell, which no test may use.
HOSTILE = {
    "DATABASE_URL": "postgresql://somebody@production/tokens",
    "TOKEN_STORAGE_DB": "/proc/nowhere/tokens.db",
    "TOKEN_ENCRYPTION_KEY": "no key at all",
    "TOKEN_ENCRYPTION_KEY_FILE": "/proc/nowhere/key",
    "TOKEN_STORAGE_LOCK_TIMEOUT": "soon",
}

#: Without it, pytest-asyncio warns.
FUNCTION_LOOPS = ("-o", "asyncio_default_fixture_loop_scope=function")

_INI = """\
[pytest]
filterwarnings = error
markers =
    anyio
    asyncio
"""


@dataclass(frozen=True)
class Ran:
    """A finished run.

    Attributes:
        status: what it exited with.
        text: what it printed.
    """

    status: int
    text: str

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of tests of each outcome."""
        last = self.text.strip().splitlines()[-1]
        found = re.findall(r"(\d+) (passed|failed|errors?|skipped|warnings?)", last)
        return {word.rstrip("s"): int(number) for number, word in found}


def run_pytest(folder: Path, *options: str, python_path: Path | None = None) -> Ran:
    """Run pytest on what is in ``folder``, in a hostile environment."""
    ours = ("PYTEST_", "TOKEN_", "DATABASE_URL", "COV_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if python_path:
        path["PYTHONPATH"] = str(python_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env={**kept, **HOSTILE, **path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return Ran(done.returncode, done.stdout)


def project(folder: Path, **files: str) -> Path:
    """Write test files, each given by its name without ``.py``, and a strict ini."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pytest.ini").write_text(_INI, "utf-8")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return folder
