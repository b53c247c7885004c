"""Build the shim, drive the victim, and judge what a fault has left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]

COUNT, KILL, ENOSPC_ONCE, ENOSPC, EIO_ONCE, EIO = range(6)


def build_shim(folder: Path) -> Path:
    """Compile the shim into ``folder`` and return its path."""
    target = folder / "shim.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(target), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return target


@dataclass
class Result:
    """What one order came to.

    Attributes:
        end: ``done``, ``refused``, ``raised`` or ``killed``.
        operations: how many file operations there were (0 when killed).
        code: the error's code, when refused.
        message: the error's text.
        acknowledged: what the child said was done before it ended.
    """

    end: str
    operations: int = 0
    code: str = ""
    message: str = ""
    acknowledged: list[str] = field(default_factory=list)


class Victim:
    """A process with the shim loaded, which carries out orders in forked children."""

    def __init__(self, shim: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim"],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(shim), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def order(
        self, do: str, path: Path, *, at: int = 0, kind: int = COUNT, argument: str = ""
    ) -> Result:
        """Have ``do`` done on ``path`` with a fault of ``kind`` at operation ``at``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"do": do, "path": str(path), "at": at, "kind": kind, "argument": argument}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        result = Result("killed")
        for line in self._process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "killed" in answer:
                return result
            if "acknowledged" in answer:
                result.acknowledged.append(answer["acknowledged"])
            else:
                result.end = answer["end"]
                result.operations = answer["operations"]
                result.code = answer.get("code", "")
                result.message = answer.get("message", "")
        raise AssertionError("the victim process has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


def copy_database(source: Path, target: Path) -> Path:
    """Copy a database with whatever lies beside it into an empty folder ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in source.parent.glob(source.name + "*"):
        if not path.name.endswith(".lock"):
            shutil.copy2(path, target / path.name)
    return target / source.name


def spread(total: int, wanted: int) -> list[int]:
    """``wanted`` numbers from 1 to ``total``, evenly spread; all of them where there are fewer."""
    if total <= wanted:
        return list(range(1, total + 1))
    return sorted({1 + round(i * (total - 1) / (wanted - 1)) for i in range(wanted)})
