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
    sources = [str(Path(__file__).with_name(name)) for name in ("shim.c", "record.c")]
    flags = ["-O1", "-shared", "-fPIC", "-o", str(target)]
    subprocess.run([compiler, *flags, *sources, "-ldl", "-pthread"], check=True)
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
        left: files that are still open, and threads that still run, in a process that lives on.
    """

    end: str
    operations: int = 0
    code: str = ""
    message: str = ""
    acknowledged: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


class Process:
    """A process that carries out orders, one after the other, as lines of JSON."""

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victim"],
            cwd=ROOT,
            # Every child imports the migration scripts: from bytecode.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def carry_out(self, order: dict[str, Any]) -> Result:
        """Have one order carried out, and hear how it ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
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
                result.left = answer.get("left", [])
        raise AssertionError("the victim process has ended")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


class Victim:
    """Two processes: one forks children with the shim loaded, to be hurt; the other is well."""

    def __init__(self, shim: Path) -> None:
        self._hurt = Process(LD_PRELOAD=str(shim))
        self._well = Process()

    def order(
        self,
        do: str,
        path: Path,
        *,
        at: int = 0,
        kind: int = COUNT,
        argument: str = "",
        record: Path | None = None,
    ) -> Result:
        """Have ``do`` done on ``path``, by a forked child where it may be killed or recorded.

        Args:
            do: the order.
            path: the database.
            at: the operation at which something goes wrong.
            kind: what goes wrong.
            argument: the order's argument.
            record: a file in another folder, to write every operation into.
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
        return self._hurt.carry_out(order)

    def restart(self, path: Path, do: str = "start") -> Result:
        """Start on ``path`` in a process that nothing is done to."""
        return self._well.carry_out({"do": do, "path": str(path), "argument": ""})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._hurt.close()
        self._well.close()


def copy_database(source: Path, target: Path) -> Path:
    """Copy a database with whatever lies beside it into an empty folder ``target``."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in source.parent.glob(source.name + "*"):
        if not path.name.endswith(".lock"):
            shutil.copy2(path, target / path.name)
    return target / source.name
