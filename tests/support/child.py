"""Another Python process: run to its end, or answering line by line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]


def run_program(
    *command: object, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program for at most five minutes and return its output."""
    arguments = [*map(str, command)]
    return subprocess.run(
        arguments, check=check, capture_output=True, text=True, timeout=300, **options
    )


def run_python(code: str, *arguments: object) -> str:
    """Run ``code`` in another process, which prints no error, and return what it prints."""
    done = run_program(sys.executable, "-c", code, *arguments, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


class Child:
    """A running process."""

    def __init__(
        self, code: str, *arguments: object, environ: Mapping[str, str] | None = None
    ) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=ROOT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line: str = "") -> None:
        """Send a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Read a line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        """Send a line and read the answer."""
        self.tell(line)
        return self.answer()

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def child(code: str, *arguments: object) -> Iterator[Child]:
    """Start a process whose first line is "ready"; end its input, then wait, at the end."""
    running = Child(code, *arguments)
    try:
        assert running.answer() == "ready"
        yield running
        running.process.communicate(timeout=60)
    finally:
        running.kill()
