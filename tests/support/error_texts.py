"""The text of every error, collected from the sources for review.

``python -m tests.support.error_texts`` writes ``tests/errors.txt``; a test compares them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite import errors
from nextcloud_mcp_server.filesystem.errors import from_texts
from nextcloud_mcp_server.migrate.plan import REFUSED, Finding, State, refusal
from nextcloud_mcp_server.schema.history import load_history

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nextcloud_mcp_server"
FILE = ROOT / "tests" / "errors.txt"

_OWN = "nextcloud_mcp_server."

#: The classes whose calls have a text.
CLASSES = ("TokenStorageError", "KeyNotGivenError", "NextcloudError")

#: The path in the texts that are filled in.
DATABASE = Path("/data/tokens.db")

_FILLED = re.compile(r"\{[^{}]*\}")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One module: its functions and its string constants by name."""

    name: str
    functions: dict[str, Function]
    constants: dict[str, str]
    imported: frozenset[str]

    @property
    def makers(self) -> frozenset[str]:
        """Return the names of its functions that create an error."""
        return frozenset(
            name for name, made in self.functions.items() if any(_calls(made, *CLASSES))
        )

    def text(self, node: ast.expr | None) -> str:
        """Return a text with its placeholders in braces."""
        match node:
            case ast.Constant(value=str(value)):
                text = value
            case ast.JoinedStr(values=parts):
                text = "".join(self.text(part) for part in parts)
            case ast.FormattedValue(value=value):
                text = "{" + ast.unparse(value) + "}"
            case ast.Name(id=name) if name in self.constants:
                text = self.constants[name]
            case ast.IfExp(body=body, orelse=orelse):
                text = f"{self.text(body)} / {self.text(orelse)}"
            case _:
                text = "{" + ast.unparse(node) + "}" if node else ""
        return text


def sources() -> Iterator[Source]:
    """Yield every module of the package in order."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "_alembic" in path.parts:
            continue
        tree = ast.parse(path.read_text("utf-8"))
        functions = {
            node.name: node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        yield Source(
            ".".join(path.relative_to(PACKAGE).with_suffix("").parts),
            functions,
            dict(_constants(tree)),
            frozenset(
                alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_OWN)
                for alias in node.names
            ),
        )


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith(_OWN):
                place = PACKAGE.joinpath(*module.removeprefix(_OWN).split("."))
                if (file := place.with_suffix(".py")).is_file():
                    wanted = {alias.name for alias in names if alias.name.isupper()}
                    there = dict(_constants(ast.parse(file.read_text("utf-8")))) if wanted else {}
                    yield from ((name, there[name]) for name in wanted & there.keys())
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(text))):
                yield name, text
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text


def _calls(function: Function, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        match node:
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(value=ast.Name(id="errors"), attr=name)
            ) if name in names:
                yield node


def written() -> Iterator[str]:
    """Yield the texts in the code with their placeholders."""
    found = list(sources())
    everywhere = frozenset[str]().union(*(source.makers for source in found))
    for source in found:
        called = everywhere if "errors" in source.imported else source.imported & everywhere
        makers = source.makers | called
        for name, function in source.functions.items():
            for call in _calls(function, *CLASSES):
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                yield _entry(
                    f"{source.name}.{name}",
                    source.text(given.get("code")),
                    source.text(call.args[0]),
                    source.text(given.get("remedy")),
                )
            for call in _calls(function, *makers):
                texts = [source.text(a) for a in (*call.args, *(k.value for k in call.keywords))]
                if texts := [text for text in texts if " " in _FILLED.sub("", text).strip()]:
                    maker = ast.unparse(call.func).removeprefix("errors.")
                    yield "\n    ".join([f"{source.name}.{name} by {maker}", *texts])


def strings() -> Iterator[tuple[str, str]]:
    """Yield each text of the package that is no docstring, with its module: messages, log lines."""
    for source in sources():
        tree = ast.parse(PACKAGE.joinpath(*source.name.split(".")).with_suffix(".py").read_text())
        inner = {id(part) for node in ast.walk(tree) for part in _parts(node)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in inner:
                continue
            if " " in (text := source.text(node)):
                yield source.name, text


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is within an f-string, and docstrings."""
    match node:
        case ast.JoinedStr():
            yield from (part for part in ast.walk(node) if part is not node)
        case ast.Expr(value=ast.Constant() as text):
            yield text


def filled_in() -> Iterator[str]:
    """Yield the texts of the tables of errors, filled in for one database."""
    history = load_history()
    findings = [Finding(state, reason="REASON") for state in sorted(REFUSED)]
    lost = Finding(State.INCONSISTENT, reason="REASON", lost=("TABLE",))
    word = Finding(State.UNKNOWN_REVISION, reason="REASON", typed=True)
    for finding in (*findings, lost, word, word._replace(meant="REVISION")):
        error = refusal(finding, history, connect(DATABASE))
        message = error.message.replace(history.head, "HEAD")
        remedy = error.remedy.replace(history.head, "HEAD")
        what = "lost secrets" if finding.lost else f"state {finding.state}"
        what = f"typed {'revision' if finding.meant else 'word'}" if finding.typed else what
        yield _entry(what, error.code, message, remedy)
    for code in errors._TEXTS:
        error = from_texts(errors._TEXTS, code, DATABASE, "DETAIL")
        yield _entry(f"fault {code}", error.code, error.message, error.remedy)


def _entry(where: str, code: str, message: str, remedy: str) -> str:
    return f"{where} [{code}]\n    {message}\n    > {remedy}"


def render() -> str:
    """Return the content of the file."""
    return "\n\n".join([*filled_in(), *sorted(written())]) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), "utf-8")
