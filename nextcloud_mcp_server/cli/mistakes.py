"""The probable meaning of a mistyped command line: imported only after a mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

import click

from nextcloud_mcp_server.cli.output import PROGRAM
from nextcloud_mcp_server.errors import for_shell, without_secrets

#: The most suggestions of one line, and how similar they have to be (:mod:`difflib`).
_MOST: Final = 2
_SIMILAR: Final = 0.75

#: What other programs call the commands and options of this one.
_SYNONYMS: Final = {"help": "--help"}
_ROOT_SYNONYMS: Final = {
    **_SYNONYMS,
    **dict.fromkeys(("start", "serve", "server"), "run"),
    "version": "--version",
}
#: Those of Alembic and Django.
_DATABASE_SYNONYMS: Final = {
    **_SYNONYMS,
    "up": "upgrade",
    "down": "downgrade",
    **dict.fromkeys(("revision", "makemigrations"), "migrate"),
    **dict.fromkeys(("head", "heads", "showmigrations"), "current"),
}

#: How a server is told which database to use; it has no such option.
_VARIABLES: Final = {
    "-d": "TOKEN_STORAGE_DB",
    "--database-path": "TOKEN_STORAGE_DB",
    "-u": "DATABASE_URL",
    "--database-url": "DATABASE_URL",
}


class WrongUsage(click.UsageError):
    """Wrong usage with a remedy that is more than the help of the command."""

    def __init__(self, message: str, context: click.Context, remedy: str) -> None:
        super().__init__(message, context)
        self.remedy = remedy


def close_to(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that ``name`` probably is, the most similar first."""
    wanted, names = name.lower().strip("-"), {one.lstrip("-"): one for one in known}
    swapped = [one for one in names if sorted(one) == sorted(wanted)]
    similar = get_close_matches(wanted, names, _MOST, _SIMILAR)
    return [names[one] for one in dict.fromkeys([*swapped, *similar])][:_MOST]


def no_command(name: str, known: Mapping[str, str], context: click.Context) -> click.UsageError:
    """Return the error for an unknown command; ``known`` has what to type for each name."""
    synonyms = _SYNONYMS if context.parent else _ROOT_SYNONYMS
    if context.info_name == "db":
        synonyms = _DATABASE_SYNONYMS
    meant = synonyms.get(name.lower())
    close = [meant] if meant else [known[match] for match in close_to(name, known)]
    return click.UsageError(f"There is no command {name!r}.{_hint(close)}", context)


def no_option(name: str, context: click.Context) -> click.UsageError:
    """Return the error for an unknown option of a command."""
    parameters = context.command.get_params(context)
    close = close_to(name, [text for p in parameters for text in (*p.opts, *p.secondary_opts)])
    if name in _VARIABLES and context.command.name == "run":
        return _no_database("run", name, context)
    # A letter resembles every other one.
    hint = _hint(close) if name.startswith("--") else ""
    return click.UsageError(f"There is no option {name!r}.{hint}", context)


def misplaced(
    option: str,
    context: click.Context,
    group: click.Group,
    arguments: Sequence[str],
    commands: Iterable[str],
) -> click.UsageError:
    """Return the error for an unknown option of a group: it may belong behind the command.

    ``commands`` are those of the group ``db``, whose name people leave out.
    """
    at = _command_at(context, group, arguments, commands)
    before, rest = list(arguments[:at]), list(arguments[at:])
    names = [_name(one) for one in before if one.startswith("-")]
    first, value = names[0], before[1:2]
    how = "Type"
    if not rest:
        values = [one for one in before if not one.startswith("-")]
        if not set(names) <= {*_VARIABLES, "--json"} or len(values) > len({*names} & {*_VARIABLES}):
            return no_option(option, context)
        if context.parent is None and first in _VARIABLES:
            return _no_database("", first, context, value)
        how, rest = "For example", ["list" if context.info_name in {"audit", "keys"} else "current"]
    if context.parent is None and group.get_command(context, rest[0]) is None:
        rest = ["db", *rest]
    command = _resolve(context, rest)
    if command.command.name == "run" and first in _VARIABLES:
        return _no_database("run", first, context, value)
    taken = {text for p in command.command.params for text in (*p.opts, *p.secondary_opts)}
    if not set(names) <= taken:
        shared = first in {*_VARIABLES, "--json"} and command is not context
        return no_option(first, command) if shared else no_option(option, context)
    end = rest.index("--") if "--" in rest else len(rest)
    typed = " ".join(map(for_shell, [*rest[:end], *before, *rest[end:]]))
    return WrongUsage(
        f"The option {option!r} stands after the command.",
        context,
        f"{how}: {context.command_path} {without_secrets(typed)}",
    )


def _command_at(
    context: click.Context, group: click.Group, arguments: Sequence[str], commands: Iterable[str]
) -> int:
    """Return the index of the command in the arguments of a group; their number if none."""
    known = {*group.list_commands(context), *(() if context.parent else commands)}
    for index, (before, argument) in enumerate(zip(["", *arguments], arguments, strict=False)):
        if before not in _VARIABLES and argument in known:
            return index
    return len(arguments)


def _resolve(context: click.Context, words: Sequence[str]) -> click.Context:
    """Return the context of the command that the first words name."""
    for word in words:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            break
        context = click.Context(found, context, info_name=word)
    return context


def _name(option: str) -> str:
    """Return the name of an option that may have its value behind it."""
    return option.partition("=")[0] if option.startswith("--") else option[:2]


def _no_database(
    command: str, option: str, context: click.Context, value: Sequence[str] = ()
) -> WrongUsage:
    """Return the error for a server that is given a database as a ``db`` command is."""
    name = "".join(value)
    database = without_secrets(for_shell(name)) if name and not name.startswith("-") else ""
    url = _VARIABLES[option] == "DATABASE_URL"
    if url and "://" not in name:
        database = ""
    what = database or ("URL" if url else "PATH")
    server = " ".join([PROGRAM, command]).rstrip()
    return WrongUsage(
        f"The option {option!r} stands after a db or keys command; a server takes its database "
        f"from {_VARIABLES[option]}.",
        context,
        f"To serve it: {_VARIABLES[option]}={what} {server}. "
        f"To inspect it: {PROGRAM} db current {option} {what}",
    )


def _hint(close: Sequence[str]) -> str:
    return f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
