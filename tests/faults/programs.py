"""Run the program in many processes at once, and read their output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.injection import build_library
from tests.support.child import ROOT

#: Seconds that a child may take; a slower one counts as hanging.
LIMIT: Final = 10.0


@dataclass(frozen=True)
class Invocation:
    """One run of the program or of Alembic's command line.

    Attributes:
        arguments: the command line; ``alembic`` first for Alembic, ``unlocked`` first for a
            program without the lock.
        user: the id of the user; 0 for the user of the tests.
        clock: seconds that its clock is ahead.
    """

    arguments: Sequence[str]
    folder: Path = ROOT
    user: int = 0
    clock: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """The result of a run: its status (None if it hangs), its output, its seconds."""

    invocation: Invocation
    status: int | None
    output: str
    seconds: float


class ProgramServer:
    """A process that has imported the program and forks it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._folder = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="output-"))
        )
        self.clock = build_library(self._folder, "clock.c")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.program_server"],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self._folder),
                "PYTHONDONTWRITEBYTECODE": "1",
                **({"LD_PRELOAD": str(self.clock)} if self.clock else {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, invocations: Iterable[Invocation], limit: float = LIMIT) -> list[Ended]:
        """Run ``invocations`` at once and wait until each has ended, or ``limit`` seconds."""
        runs = list(invocations)
        files = [self._folder / str(number) for number in range(len(runs))]
        for file in files:
            file.write_bytes(b"")
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        document = {"limit": limit, "runs": [*map(_document, runs, files)]}
        stdin.write(json.dumps(document) + "\n")
        stdin.flush()
        answers: list[dict[str, Any]] = json.loads(stdout.readline())
        return [
            Ended(run, answer["status"], _text(file), answer["seconds"])
            for run, answer, file in zip(runs, answers, files, strict=True)
        ]

    def close(self) -> None:
        """End the process, which ends when its input does."""
        self._process.communicate()
        self._stack.close()


def _document(run: Invocation, file: Path) -> dict[str, Any]:
    return {
        "arguments": list(run.arguments),
        "folder": str(run.folder),
        "user": run.user,
        "clock": run.clock,
        "environ": dict(run.environ),
        "out": str(file),
    }


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "backslashreplace")
