"""Run operations in a process with a library that injects faults into its file operations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.child import Child

COUNT, KILL, ENOSPC_ONCE, ENOSPC, EIO_ONCE, EIO = range(6)


def build_library(folder: Path, *names: str) -> Path | None:
    """Compile C files for LD_PRELOAD; None if there is no compiler or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    target = folder / "library.so"
    sources = [str(Path(__file__).with_name(name)) for name in names]
    flags = ["-O1", "-shared", "-fPIC", "-o", str(target)]
    subprocess.run([compiler, *flags, *sources, "-ldl", "-pthread"], check=True)
    return target


@dataclass
class Result:
    """The result of one operation.

    Attributes:
        end: ``done``, ``refused``, ``raised`` or ``killed``.
        operations: the number of file operations (0 if killed).
        code: the error code, if refused.
        acknowledged: what the child acknowledged before it ended.
        left: files that are still open and threads that still run in a surviving process.
    """

    end: str
    operations: int = 0
    code: str = ""
    message: str = ""
    acknowledged: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Process(Child):
    """A process that runs operations one after the other; messages are lines of JSON."""

    def __init__(self, **environment: str) -> None:
        """Start it; every child imports the migration scripts, and does so from bytecode."""
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment}
        code = "from tests.faults.injection_process import main; main()"
        super().__init__(code, environ=environ)

    def run(self, order: dict[str, Any]) -> Result:
        """Run one operation and return its result."""
        self.tell(json.dumps(order))
        result = Result("killed")
        acknowledged: list[str] = []
        while line := self.answer():
            answer: dict[str, Any] = json.loads(line)
            if "killed" in answer:
                result.acknowledged = acknowledged
                return result
            if "acknowledged" in answer:
                acknowledged.append(answer["acknowledged"])
            else:
                result = Result(**answer)
        raise AssertionError("the process has ended")


class Injector:
    """Two processes: one forks children with the library loaded, the other has no faults."""

    def __init__(self, shim: Path) -> None:
        self._faulty = Process(LD_PRELOAD=str(shim))
        self._normal = Process()

    def run(
        self,
        do: str,
        path: Path,
        *,
        at: int = 0,
        kind: int = COUNT,
        argument: str = "",
        record: Path | None = None,
    ) -> Result:
        """Run ``do`` on ``path``, in a forked child if it may be killed or is recorded.

        Args:
            at: the number of the file operation that fails.
            kind: the fault.
            record: a file in another folder that receives every file operation.
        """
        order = {
            "do": do,
            "path": str(path),
            "at": at,
            "kind": kind,
            "argument": argument,
            "record": str(record or ""),
            "survives": kind not in {COUNT, KILL},
        }
        return self._faulty.run(order)

    def restart(self, path: Path, do: str = "start") -> Result:
        """Start on ``path`` in the process without faults."""
        return self._normal.run({"do": do, "path": str(path), "argument": ""})

    def close(self) -> None:
        """End both processes."""
        self._faulty.kill()
        self._normal.kill()


def clear(folder: Path) -> Path:
    """Return ``folder``, emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def copy_database(source: Path, target: Path) -> Path:
    """Copy a database with the files beside it into the emptied folder ``target``."""
    clear(target)
    for path in source.parent.glob(source.name + "*"):
        if not path.name.endswith(".lock"):
            shutil.copy2(path, target / path.name)
    return target / source.name
