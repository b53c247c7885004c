"""The options that every db command takes, and the database that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.cli.words import database_line, fallback_line
from nextcloud_mcp_server.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Named:
    """The database that was named on the command line, if any.

    Attributes:
        text: a path or an SQLite URL; None where the settings are to say.
    """

    text: str | None

    def find(self, output: Output) -> Settings:
        """The settings of a command, after saying which database they name.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.settings.load_settings`.
        """
        settings = load_settings(database=self.text)
        if settings.fallback_from is not None:
            output.note(fallback_line(settings))
        if self.text is None:
            output.head(database_line(settings))
        return settings


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``-d``, ``-u`` and ``--json``; it is called with an Output and a Named."""

    def with_named(
        database_path: str | None, database_url: str | None, **arguments: Any
    ) -> int | None:
        if database_path is not None and database_url is not None:
            raise click.UsageError("-d and -u both name a database; give one of them.")
        if database_url is not None and "://" not in database_url:
            raise click.UsageError(
                "-u takes a URL, for example sqlite:////app/data/tokens.db; "
                "a plain path goes in -d."
            )
        output = click.get_current_context().find_object(Output)
        text = database_path if database_url is None else database_url
        status: int | None = command(output, Named(text), **arguments)
        return status

    decorated = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_use_json,
        help="Print one JSON document on stdout, errors too.",
    )(with_named)
    decorated = click.option(
        "-u",
        "--database-url",
        metavar="URL",
        help="SQLAlchemy URL of the database, for example sqlite:////app/data/tokens.db.",
    )(decorated)
    decorated = click.option(
        "-d",
        "--database-path",
        metavar="PATH",
        help="Path of the database file.  [default: $DATABASE_URL, else $TOKEN_STORAGE_DB, "
        "else /app/data/tokens.db]",
    )(decorated)
    # The name, the help and the options that are declared below this decorator.
    decorated.__name__ = command.__name__
    decorated.__doc__ = command.__doc__
    decorated.__dict__["__click_params__"] = [
        *decorated.__dict__["__click_params__"],
        *command.__dict__.get("__click_params__", []),
    ]
    return decorated


def _use_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.find_object(Output).as_json = value  # type: ignore[union-attr]


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty value, which is most often a shell variable that is not set."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty.", param=parameter)
    return value


while_running_option = click.option(
    "--while-running", is_flag=True, help="Do it under a running server; restart that afterwards."
)


def revision_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``-r`` and ``--revision``, with ``text`` as its help."""
    return click.option("-r", "--revision", metavar="REV", callback=not_empty, help=text)
