"""What the page about the architecture names is in the code."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import Final

import pytest

from tests.docs.conftest import DOCS, ROOT

PAGE: Final = (DOCS / "explanation" / "architecture.md").read_text("utf-8")
PACKAGE: Final = ROOT / "nextcloud_mcp_server"
NAMES: Final = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))


def _is_path(name: str) -> bool:
    return re.fullmatch(r"[\w./-]+(/|\.(py|json|toml|md))", name) is not None


def _defined() -> set[str]:
    """Return the functions and classes of the package, and the methods as Class.method."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            if isinstance(node, ast.ClassDef):
                methods = [
                    n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
                ]
                found.update(f"{node.name}.{method.name}" for method in methods)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if _is_path(name)])
def test_a_named_file_is_there(name: str) -> None:
    """Each path is one of the package, or of the project."""
    if "ENGINE" not in name:
        inside = (
            file
            for folder in ("nextcloud_mcp_server", "alembic")
            for file in (ROOT / folder).rglob(name)
        )
        assert any(inside) or (ROOT / name).exists()


def test_a_named_function_is_there() -> None:
    """Each name with parentheses is a function, or a method of that class."""
    called = {name.partition("(")[0] for name in NAMES if name.endswith(")")}
    assert called - _defined() == set()


def test_every_room_is_in_the_table() -> None:
    """The table names each package and module of the contract about imports."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "house"]
    rooms = [room for layer in layers for room in re.findall(r"\w+", layer)]
    table = PAGE.partition("## The packages")[2].partition("\n\n`lifespan.py`")[0]
    named = {
        name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([\w./]+)`", table)
    }
    assert set(rooms) - named == {"__main__"}
