"""The page on migration operations: it is complete, and its examples run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

from tests.migrations.database import ROOT, Database, columns_of
from tests.migrations.rows import seed
from tests.support.scripts import SCRIPTS

PAGE: Final = (ROOT / "docs" / "reference" / "migration-vocabulary.md").read_text("utf-8")
_SECTION: Final = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS: Final[dict[str, str]] = dict(_SECTION.findall(PAGE))
EXAMPLES: Final = {
    heading: found[1]
    for heading, body in SECTIONS.items()
    if (found := re.search(r"```python\n(.*?)```", body, re.DOTALL))
}

#: The line that the page says is above its examples.
IMPORT: Final = "from nextcloud_mcp_server.migrations import guards"

#: A query and its result that prove what an example did.
DONE: Final = {
    "`recreate_table`": (
        "SELECT count(*) FROM browser_sessions WHERE device = 'session ' || session_id",
        3,
    ),
    "`rewrite`": ("SELECT count(*) FROM refresh_tokens WHERE length(user_profile) = 40", 2),
}

#: Called by env.py, and by revision 103 alone.
UNLISTED: Final = {"close", "decrypt"}


def operations() -> dict[str, list[str]]:
    """Return the public methods of the guards with their parameters."""
    tree = ast.parse((SCRIPTS / "guards.py").read_text("utf-8"))
    (guards,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    return {
        node.name: _parameters(node.args)
        for node in guards.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and node.name not in UNLISTED
    }


def _parameters(arguments: ast.arguments) -> list[str]:
    first = [argument.arg for argument in arguments.args[1:]]
    if arguments.vararg:
        first.append(f"*{arguments.vararg.arg}")
    keywords = [argument.arg for argument in arguments.kwonlyargs]
    return [*first, *(["*"] if keywords and not arguments.vararg else []), *keywords]


def test_every_operation_is_on_the_page() -> None:
    """Each operation has a section with an example, and a row in the table."""
    for name in operations():
        (section,) = (body for heading, body in SECTIONS.items() if f"`{name}`" in heading)
        assert f"guards.{name}(" in section, name
        assert f"| [`{name}`](#" in PAGE, name
    assert len(EXAMPLES) == 6
    assert f"```python\n{IMPORT}\n```" in PAGE


def test_the_parameters_on_the_page_are_those_of_the_code() -> None:
    """The signature in a section has every parameter, in order."""
    for name, parameters in operations().items():
        shown = re.search(rf"`{name}\((.*?)\)`", PAGE)
        assert shown, name
        assert [part.split("=")[0] for part in shown[1].split(", ")] == parameters, name


@pytest.mark.parametrize("name", EXAMPLES)
async def test_every_example_runs(database: Database, scripts: Path, name: str) -> None:
    """Each example runs up, up again and down; rows that are not dropped are kept."""
    await database.upgrade("101")
    await database.insert(seed("101", database.lineage, before=False))
    gone = {"profile_cached_at", "user_profile"}
    kept = {
        table: [name for name in names if name not in gone]
        for table, names in columns_of(await database.shape()).items()
        if "drop_table" not in name or table != "document_paths"
    }
    rows, shape = await database.rows(kept), await database.shape()
    database.revise(scripts, f"{IMPORT}\n{EXAMPLES[name]}")
    await database.upgrade()
    catalogue = await database.catalogue()
    assert await database.rows(kept) == rows
    if name in DONE:
        question, answer = DONE[name]
        assert await database.query(question) == [(answer,)]
    await database.run(("stamp", "101"), ("upgrade", "102"))
    assert await database.catalogue() == catalogue
    await database.downgrade("101")
    assert await database.rows(kept) == rows
    assert {n: set(t.columns) for n, t in (await database.shape()).items()} == {
        n: set(t.columns) for n, t in shape.items()
    }
