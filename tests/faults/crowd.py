"""Order crowds of the program from the nursery, and read what they have said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]

#: Seconds that a child may take; what takes longer hangs.
LIMIT: Final = 10.0

#: A user who owns nothing.
NOBODY: Final = 65534


@dataclass(frozen=True)
class Order:
    """One child: the program, or Alembic's own command line.

    Attributes:
        arguments: as typed after the program's name; ``alembic`` first for Alembic's.
        folder: where it is typed.
        user: the id of the user who types it; 0 for whoever runs the tests.
        clock: seconds that its clock is ahead.
        environ: variables that it finds beside the tests' own.
    """

    arguments: Sequence[str]
    folder: Path = ROOT
    user: int = 0
    clock: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a child ended: its status (None: it was still there), its words, its seconds."""

    order: Order
    status: int | None
    said: str
    seconds: float


def build_clock(folder: Path) -> Path | None:
    """Compile the other clock; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    target = folder / "clock.so"
    source = Path(__file__).with_name("clock.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(target), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return target


class Nursery:
    """A process that forks the program, with everything imported."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="said-")))
        self.clock = build_clock(self._folder)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
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

    def run(self, orders: Iterable[Order], limit: float = LIMIT) -> list[Ended]:
        """Run ``orders`` all at once and wait until each has ended, or ``limit`` is over."""
        crowd = list(orders)
        files = [self._folder / str(number) for number in range(len(crowd))]
        for file in files:
            file.write_bytes(b"")
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        document = {"limit": limit, "crowd": [*map(_document, crowd, files)]}
        stdin.write(json.dumps(document) + "\n")
        stdin.flush()
        answers: list[dict[str, Any]] = json.loads(stdout.readline())
        return [
            Ended(order, answer["status"], _text(file), answer["seconds"])
            for order, answer, file in zip(crowd, answers, files, strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        # Its input ends, and so does it.
        self._process.communicate()
        self._stack.close()


def _document(order: Order, file: Path) -> dict[str, Any]:
    return {
        "arguments": list(order.arguments),
        "folder": str(order.folder),
        "user": order.user,
        "clock": order.clock,
        "environ": dict(order.environ),
        "out": str(file),
    }


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "backslashreplace")
