"""The cost of importing the store, and the modules that it imports."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from typing import Final

from tests.bench.harness import Row, environment, fact
from tests.bench.place import Place, processes

MODULE: Final = "nextcloud_mcp_server.auth.storage"

#: Modules that serving tokens must not import.
UNWANTED: Final = (
    "alembic",
    "click",
    "h11",
    "http.client",
    "http.server",
    "mako",
    "starlette",
    "uvicorn",
)

#: Prints the modules that come with an import, and where each lies, in the order of loading.
LIST: Final = f"""
import sys
import {MODULE}
for name, module in list(sys.modules.items()):
    print(name, getattr(module, "__file__", None) or "")
"""


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of importing the store."""
    modules = imported()
    others = third_party(modules)
    base = [sys.executable, "-c", f"import {', '.join(others)}"]
    ours = [sys.executable, "-c", f"import {MODULE}"]
    pairs = processes(base, ours, place.scale)
    yield pairs.judged(
        f"importing `{MODULE}`",
        f"importing the {len(others)} modules of others that it brings: "
        + ", ".join(sorted({name.partition(".")[0] for name in others})),
        1.15,
    )
    found = [name for name in UNWANTED if name in modules]
    yield fact(
        "of the server, Alembic and HTTP among them",
        ", ".join(found) or "nothing",
        "nothing",
        holds=not found,
    )


def imported() -> dict[str, str]:
    """Return the modules after importing the store, with their files."""
    command = [sys.executable, "-c", LIST]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return {name: file for name, _, file in lines}


def third_party(modules: dict[str, str]) -> list[str]:
    """Return the installed modules of other projects."""
    folders = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    return [
        name
        for name, file in modules.items()
        if file.startswith(folders) and not name.startswith(("nextcloud_mcp_server", "_virtualenv"))
    ]
