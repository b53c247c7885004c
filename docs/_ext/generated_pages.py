"""Generate parts of the reference from the code.

The text between ``<!-- generated: commands -->`` and ``<!-- end of generated -->`` in a Markdown
page is the result of the function of that name. The result is Markdown too, so its headings and
links are checked. It is stored in the page, so that somebody who reads the repository has it:
``python docs/_ext/generated_pages.py`` writes every page, and a test compares them. Sphinx
generates it again.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import click

from nextcloud_mcp_server import settings as settings_module
from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.cli.keys.group import key_commands
from nextcloud_mcp_server.cli.output import PROGRAM
from nextcloud_mcp_server.cli.root import cli
from nextcloud_mcp_server.migrate.alembic_commands import listing
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.schema.revision import Revision
from nextcloud_mcp_server.schema.structure import Structure
from nextcloud_mcp_server.tools.declare import Declared
from nextcloud_mcp_server.tools.server import TOOLS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS: Final = Path(__file__).parents[1]

_STORED: Final = re.compile(
    r"^<!-- generated: (?P<name>\w+) -->$.*?^<!-- end of generated -->$", re.MULTILINE | re.DOTALL
)

#: Options of most db commands, listed once on the page.
_COMMON: Final = frozenset({"database_path", "database_url", "json"})


def commands() -> str:
    """Return every command with its usage, description, arguments and options."""
    # click caches the first help option of a command for the whole process.
    context = click.Context(cli, info_name=PROGRAM, **cli.context_settings)
    run, stdio = cli.commands["run"], cli.commands["stdio"]
    parts = [
        _command(run, click.Context(run, context, "run"), "The server"),
        _command(stdio, click.Context(stdio, context, "stdio"), "stdio"),
    ]
    below = click.Context(cli.commands["db"], context, "db")
    known = db_commands.commands
    options = [p for c in known.values() for p in c.params if p.name in _COMMON]
    common = {str(option.name): option for option in options}
    without = [name for name, c in sorted(known.items()) if len(_COMMON & _names(c)) == 1]
    named = ", ".join(f"`{name}`" for name in without)
    parts.append(
        "## Options of the db commands\n\nEvery command has `--json`. `-d` and `-u` name the "
        f"database; these have other options for one, or use none: {named}.\n\n"
        + _options(common.values(), below)
    )
    for name, command in sorted(known.items()):
        inside = click.Context(command, below, name)
        parts.append(_command(command, inside, f"db {name}"))
        for own, one in sorted(getattr(command, "commands", {}).items()):
            parts.append(_command(one, click.Context(one, inside, own), f"db {name} {own}"))
    below = click.Context(cli.commands["keys"], context, "keys")
    for name, command in sorted(key_commands.commands.items()):
        parts.append(_command(command, click.Context(command, below, name), f"keys {name}"))
    return "\n\n".join(parts)


def _names(command: click.Command) -> frozenset[str | None]:
    return frozenset(parameter.name for parameter in command.params)


def _command(command: click.Command, context: click.Context, title: str) -> str:
    usage = context.get_usage().removeprefix("Usage: ")
    own = [p for p in command.params if p.name not in _COMMON]
    text = inspect.cleandoc(command.help or "")
    return f"## {title}\n\n```text\n{' '.join(usage.split())}\n```\n\n{text}\n\n" + _options(
        own, context
    )


def _options(parameters: Iterable[click.Parameter], context: click.Context) -> str:
    rows = []
    for parameter in parameters:
        if record := parameter.get_help_record(context):
            option, text = record
            rows.append(f"| `{option}` | {_cell(text)} |")
    return "\n".join(["| option | what it does |", "|---|---|", *rows]) if rows else ""


def _cell(text: str) -> str:
    # click puts two spaces before a default. A bar would end the cell.
    return " ".join(text.replace("|", "\\|").split())


def settings() -> str:
    """Return the table of environment variables from the docstring of ``settings``.

    Raises:
        ValueError: if the docstring and the code name different variables.
    """
    table = "\n".join(re.findall(r"^\|.*\|$", settings_module.__doc__ or "", re.MULTILINE))
    documented = set(re.findall(r"^\| ``(\w+)``", table, re.MULTILINE))
    if documented != (read := variables()):
        raise ValueError(
            f"settings reads {sorted(read)}, but its docstring names {sorted(documented)}"
        )
    return table


def variables() -> set[str]:
    """Return the variables that the modules of ``settings`` read from an environment."""
    calls = (
        [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        for path in Path(settings_module.__path__[0]).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"environ.get", "flag", "number"}
    )
    return {str(constants[0]) for constants in calls if any(constants)}


def tools() -> str:
    """Return every tool of MCP with its scope, its annotations and its arguments."""
    return "\n\n".join(_tool(declared) for declared in TOOLS)


def _tool(declared: Declared) -> str:
    tool = declared.bind(_Unused())
    kind = declared.kind
    facts = [
        "only reads" if kind.reads else "writes",
        *(["can overwrite or delete"] if kind.destroys else []),
        *(["reaches other people"] if kind.outside else []),
    ]
    scope = f"scope `{declared.scope}`" if declared.scope else "no scope"
    needed = tool.parameters.get("required", ())
    rows = [
        f"| `{name}`{'' if name in needed else ' (optional)'} | {part['type']} "
        f"| {_cell(part.get('description', ''))} |"
        for name, part in tool.parameters.get("properties", {}).items()
    ]
    table = "\n".join(["| argument | type | meaning |", "|---|---|---|", *rows]) if rows else ""
    text = f"## {tool.name}\n\n**{tool.title}**: {scope}; {', '.join(facts)}.\n\n{tool.description}"
    return f"{text}\n\n{table}".rstrip()


class _Unused:
    """The access of tools that are described and not called."""

    async def person(self) -> None:
        """Return nobody."""

    async def require(self, scope: str | None, context: object) -> NoReturn:
        """Fail."""
        raise NotImplementedError(scope, context)

    async def failed(self, error: NextcloudError) -> NoReturn:
        """Fail."""
        raise NotImplementedError(error)


def revisions() -> str:
    """Return every revision, newest first: purpose, changes, and what its downgrade loses."""
    history = load_history()
    listed = listing(history)
    summary = [
        f"| [{r.id}](#{_anchor(r)}) | {r.date} | {_cell(r.title)} |" for r in reversed(listed)
    ]
    parts = ["\n".join(["| id | date | title |", "|---|---|---|", *summary])]
    parts += [_revision(revision, history) for revision in reversed(listed)]
    return "\n\n".join(parts)


def _anchor(revision: Revision) -> str:
    """Return the anchor that GitHub and MyST give the heading of a revision."""
    heading = f"{revision.id}: {revision.title}".lower().replace(" ", "-")
    return re.sub(r"[^\w-]", "", heading)


def _revision(revision: Revision, history: History) -> str:
    below = Structure() if revision.parent is None else history.structure(revision.parent)
    changes = list(_changes(below, history.structure(revision.id)))
    # The title is in the heading, and the facts of Alembic's template are in the file.
    body = re.split(r"^Downgrade loses:|^Revision ID:", revision.doc, flags=re.MULTILINE)[0]
    _, _, text = body.partition("\n")
    return "\n\n".join(
        part
        for part in (
            f'<a id="revision-{revision.id}"></a>',
            f"## {revision.id}: {revision.title}",
            f"{revision.date}, `alembic/versions/{revision.path.name}`",
            text.strip(),
            f"**Changes:** {'; '.join(changes) or 'rows only'}.",
            f"**A downgrade loses:** {revision.loses or 'nothing'}",
        )
        if part
    )


def _changes(before: Structure, after: Structure) -> Iterator[str]:
    for table in sorted(after.tables.keys() - before.tables.keys()):
        yield f"adds table `{table}`"
    for table in sorted(before.tables.keys() - after.tables.keys()):
        yield f"drops table `{table}`"
    for table in sorted(before.tables.keys() & after.tables.keys()):
        old, new = before.tables[table].columns, after.tables[table].columns
        yield from (f"adds column `{table}.{column}`" for column in new if column not in old)
        yield from (f"drops column `{table}.{column}`" for column in old if column not in new)
    kept = before.tables.keys() & after.tables.keys()
    for index in sorted(after.indexes.keys() - before.indexes.keys()):
        if after.owners[index] in kept:
            yield f"adds index `{index}`"
    for index in sorted(before.indexes.keys() - after.indexes.keys()):
        if before.owners[index] in kept:
            yield f"drops index `{index}`"


#: The functions that a page can name.
GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands,
    "settings": settings,
    "revisions": revisions,
    "tools": tools,
}


def generate(text: str) -> str:
    """Return the text of a page with its generated parts generated again.

    Raises:
        KeyError: if a page names an unknown function.
        ValueError: if a part has no end.
    """
    if len(re.findall(r"^<!-- generated: ", text, re.MULTILINE)) != len(_STORED.findall(text)):
        raise ValueError("a generated part needs a line `<!-- end of generated -->` at its end")
    return _STORED.sub(_part, text)


def _part(stored: re.Match[str]) -> str:
    name = stored["name"]
    return f"<!-- generated: {name} -->\n\n{GENERATED[name]()}\n\n<!-- end of generated -->"


def _before_parsing(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = generate(source[0])


def _is_documented_already(
    _app: Sphinx, _what: str, _name: str, member: object, skip: bool, _options: object
) -> bool | None:
    """Skip the fields of a named tuple: its docstring describes them."""
    return True if type(member) is type(_Named.field) else skip or None


class _Named(NamedTuple):
    field: object


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("source-read", _before_parsing)
    app.connect("autodoc-skip-member", _is_documented_already)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    for page in DOCS.rglob("*.md"):
        page.write_text(generate(page.read_text("utf-8")), "utf-8")
