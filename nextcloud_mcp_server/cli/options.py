"""The options that several db commands share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from itertools import pairwise
from typing import Any, Final

import click

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError


def _use_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.find_object(Output).as_json = value  # type: ignore[union-attr]


class FileName(click.Path):
    """Any text; a shell completes names of files."""

    def convert(
        self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None
    ) -> Any:
        """Return the text: what cannot be a path is refused with a remedy later."""
        return value


class WholeNumber(click.IntRange):
    """A whole number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        try:
            return int(super().convert(value, param, ctx))
        # ValueError: thousands of digits.
        except (click.BadParameter, ValueError):
            most = "up" if self.max is None else f"to {self.max}"
            self.fail(f"{value[:20]!r} is not a whole number from {self.min} {most}.", param, ctx)


_JSON_OPTION: Final = click.Option(
    ["--json"],
    is_flag=True,
    expose_value=False,
    callback=_use_json,
    help="Print one JSON document on stdout, also for an error.",
)

#: In reverse order, as click keeps the options of a function.
_DATABASE_OPTIONS: Final = (
    _JSON_OPTION,
    click.Option(
        ["-u", "--database-url"],
        metavar="URL",
        help="URL of the database: postgresql://user@host/database or sqlite:////app/data/tokens.db.",
    ),
    click.Option(
        ["-d", "--database-path"],
        type=FileName(),
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
        if database_url is not None and database_url != database_url.strip():
            raise click.UsageError("-u begins or ends with a blank.")
        if database_url is not None and "://" not in database_url:
            raise click.UsageError(
                "-u takes a URL, as in sqlite:////app/data/tokens.db or "
                "postgresql://user@host/database; -d takes a plain path."
            )
        # Not for --help: the settings take as long to import as half of click.
        from nextcloud_mcp_server.cli.database import DatabaseOption  # noqa: PLC0415

        output = click.get_current_context().ensure_object(Output)
        option = DatabaseOption(database_path if database_url is None else database_url)
        return _logged(output, lambda: command(output, option, **arguments))

    return _with_options(with_database, command, _DATABASE_OPTIONS)


def without_database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json`` to a command that uses no database; it is called with an Output."""

    @wraps(command)
    def with_output(**arguments: Any) -> int | None:
        output = click.get_current_context().ensure_object(Output)
        return _logged(output, lambda: command(output, **arguments))

    return _with_options(with_output, command, (_JSON_OPTION,))


def _logged(output: Output, work: Callable[[], int | None]) -> int | None:
    from nextcloud_mcp_server.cli.log_lines import log_lines  # noqa: PLC0415 - not for --help

    with log_lines(output):
        return output.run(work)


def _with_options(
    wrapper: Callable[..., Any], command: Callable[..., Any], options: Sequence[click.Option]
) -> Callable[..., Any]:
    own = command.__dict__.get("__click_params__", [])
    wrapper.__dict__["__click_params__"] = [*options, *own]
    return wrapper


_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

_AGES: Final = {"h": "hours", "d": "days", "w": "weeks"}


def _age(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> timedelta | None:
    if value is None:
        return None
    if (age := _parsed_age(value)) is not None:
        return age
    raise click.BadParameter("give hours, days or weeks: 12h, 30d or 4w.", param=parameter)


def _parsed_age(value: str) -> timedelta | None:
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", value)
    return None if match is None else timedelta(**{_AGES[match[2]]: int(match[1])})


def _since(_context: click.Context, parameter: click.Parameter, value: str | None) -> int:
    if value is None:
        return 0
    if (age := _parsed_age(value)) is not None:
        return max(int(time.time() - age.total_seconds()), 0)
    with suppress(ValueError):
        when = datetime.fromisoformat(value)
        if _DATE.fullmatch(value):
            when = when.replace(tzinfo=UTC)
        if when.tzinfo is not None:
            return max(int(when.timestamp()), 0)
    raise click.BadParameter(
        "give a date (2026-11-30), a time with its zone (2026-11-30T08:00:00Z, +01:00) or an age "
        "(12h, 30d, 4w).",
        param=parameter,
    )


#: Returns seconds since 1970, 0 without it. A date is that of UTC.
since_option = click.option(
    "--since",
    metavar="WHEN",
    callback=_since,
    help="Only those from then on: a date in UTC, a time with its zone (2026-11-30T08:00:00Z), or "
    "an age (12h, 30d, 4w).",
)


def age_option(name: str, *, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: A002 - click's word
    """Add an option for an age as in ``30d``."""
    return click.option(name, metavar="AGE", callback=_age, help=help)


def hours(age: timedelta) -> str:
    """Return an age as :func:`age_option` takes it."""
    return f"{age // timedelta(hours=1)}h"


while_running_option = click.option(
    "--while-running", is_flag=True, help="Proceed under a running server; restart it afterwards."
)

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")


class RevisionCommand(click.Command):
    """A command that takes a revision, as Alembic's commands do: ``-1`` is one, no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after moving the first bare ``-N`` behind all options."""
        # Not for `db --help`, which imports this module.
        from nextcloud_mcp_server.migrate.plan import is_steps  # noqa: PLC0415

        options = (p for p in self.params if isinstance(p, click.Option) and not p.is_flag)
        with_value = {name for option in options for name in option.opts}
        for index, (before, argument) in enumerate(pairwise(["", *args])):
            if argument == "--":
                break
            # `-yr -1` is the value of -r, too.
            option = before if before.startswith("--") else before[:1] + before[-1:]
            if option not in with_value and is_steps(argument, "-"):
                args = [*args[:index], *args[index + 1 :], "--", argument]
                break
        return super().parse_args(ctx, args)


def complete_revisions(*names: str) -> Callable[..., list[str]]:
    """Return a function that completes an id of a revision, or one of ``names``."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[str]:
        from nextcloud_mcp_server.schema.history import load_history  # noqa: PLC0415 - only for Tab

        try:
            known = load_history().revisions
        except TokenStorageError:
            # A shell shows nothing better than no answer.
            known = ()
        return [name for name in (*names, *known) if name.startswith(incomplete)]

    return complete


def revision_option(text: str, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a parameter ``revision`` that is given as ``[REV]`` or as ``-r``, ``--revision``.

    A shell completes ids and ``names``.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def with_revision(
            *positional: Any, rev: str | None, revision: str | None, **rest: Any
        ) -> Any:
            if rev is not None and revision is not None:
                raise click.UsageError("REV and --revision are the same: give only one.")
            return command(*positional, revision=revision if rev is None else rev, **rest)

        shared: dict[str, Any] = {
            "callback": not_empty,
            "shell_complete": complete_revisions(*names),
        }
        option = click.option("-r", "--revision", metavar="REV", help=text, **shared)
        argument = click.argument("rev", metavar="[REV]", required=False, **shared)
        return argument(option(with_revision))

    return add


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Reject an empty value, which is usually a shell variable that is not set."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty.", param=parameter)
    return value
