"""The options that several db commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click

from nextcloud_mcp_server.cli.output import Output


def _use_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.find_object(Output).as_json = value  # type: ignore[union-attr]


json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_use_json,
    help="Print one JSON document on stdout, also for an error.",
)

#: In reverse order, as click keeps the options of a function.
_DATABASE_OPTIONS: Final = (
    click.Option(
        ["--json"],
        is_flag=True,
        expose_value=False,
        callback=_use_json,
        help="Print one JSON document on stdout, also for an error.",
    ),
    click.Option(
        ["-u", "--database-url"],
        metavar="URL",
        help="SQLAlchemy URL of the database, for example sqlite:////app/data/tokens.db.",
    ),
    click.Option(
        ["-d", "--database-path"],
        metavar="PATH",
        help="Path of the database file.  [default: $DATABASE_URL, else $TOKEN_STORAGE_DB, "
        "else /app/data/tokens.db]",
    ),
)


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``-d``, ``-u`` and ``--json`` to a command.

    The command is called with an Output, a DatabaseOption and its own arguments.
    """

    @wraps(command)
    def with_database(
        database_path: str | None, database_url: str | None, **arguments: Any
    ) -> int | None:
        if database_path is not None and database_url is not None:
            raise click.UsageError("-d and -u both name a database: give only one.")
        if database_url is not None and "://" not in database_url:
            raise click.UsageError(
                "-u takes a URL, as in sqlite:////app/data/tokens.db; -d takes a plain path."
            )
        # Not for --help: the settings take as long to import as half of click.
        from nextcloud_mcp_server.cli.database import DatabaseOption  # noqa: PLC0415

        output = click.get_current_context().ensure_object(Output)
        option = DatabaseOption(database_path if database_url is None else database_url)
        return output.run(lambda: command(output, option, **arguments))

    own = command.__dict__.get("__click_params__", [])
    with_database.__dict__["__click_params__"] = [*_DATABASE_OPTIONS, *own]
    return with_database


while_running_option = click.option(
    "--while-running", is_flag=True, help="Proceed under a running server; restart it afterwards."
)

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")


def revision_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``-r``, ``--revision`` with ``text`` as its help."""
    return click.option("-r", "--revision", metavar="REV", callback=not_empty, help=text)


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Reject an empty value, which is usually a shell variable that is not set."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty.", param=parameter)
    return value
