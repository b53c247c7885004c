"""The built distributions, and an environment that holds the wheel and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    """An environment outside of the checkout with only the wheel installed."""

    prefix: Path
    home: Path

    @property
    def script(self) -> str:
        """The console script, by its full path."""
        return str(self.prefix / "bin" / "nextcloud-mcp-server")

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment variables of the program: ``settings`` and no others."""
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.home), **settings}

    def run(
        self, *arguments: str, cwd: Path, settings: Mapping[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run the console script in ``cwd`` and wait for it."""
        return subprocess.run(
            [self.script, *arguments],
            cwd=cwd,
            env=self.environment(**(settings or {})),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def serving(self, cwd: Path, settings: Mapping[str, str], port: int = 0) -> Iterator[str]:
        """Serve in ``cwd`` until the ``with`` block ends, and return the address.

        Then SIGTERM must end the server without an error.
        """
        with subprocess.Popen(
            [self.script, "--port", str(port)],
            cwd=cwd,
            env=self.environment(**settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as server:
            assert server.stdout is not None
            try:
                listening = "listening on "
                first = next(line for line in server.stdout if line.startswith(listening))
                yield first.strip().removeprefix(listening)
            finally:
                server.send_signal(signal.SIGTERM)
                _, log = server.communicate(timeout=30)
        assert server.returncode == 0, log
        assert "Traceback" not in log


def uv(*arguments: str, cwd: Path = CHECKOUT) -> str:
    """Run uv, in the checkout so that the pins of ``pyproject.toml`` apply."""
    program = os.environ.get("UV") or shutil.which("uv")
    assert program, "these tests build with uv"
    # uv must not use the environment of the nox session.
    kept = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    command = [program, *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _built(kind: str, folder: Path, *source: str) -> Path:
    """Build a distribution in the empty ``folder`` and return its path."""
    uv("build", "--quiet", f"--{kind}", "--out-dir", str(folder), *source)
    [distribution] = folder.glob("nextcloud_mcp_server-*")
    return distribution


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """``pyproject.toml``, parsed."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, built from the checkout."""
    return _built("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    return _built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def wheel_of_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist alone."""
    return _built("wheel", tmp_path_factory.mktemp("again"), str(sdist))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an empty environment, with the pinned versions of what it needs."""
    folder = tmp_path_factory.mktemp("installed")
    prefix = folder / "env"
    uv("venv", "--quiet", "--python", sys.executable, str(prefix))
    uv("pip", "install", "--quiet", "--python", str(prefix), str(wheel))
    (folder / "home").mkdir()
    return Installed(prefix, folder / "home")
