"""``db lint``: what is wrong with the migrations, by file and line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import Named, database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.authoring.lint.review import Review
    from nextcloud_mcp_server.authoring.lint.rules import Problem


@click.command()
@database_options
@click.option("--strict", is_flag=True, help="Refuse what is only noted, too.")
@click.option("--fix", is_flag=True, help="Generate structure.json anew where it is old.")
@click.option(
    "--release", is_flag=True, help="Keep what each new revision says, so that edits are seen."
)
@click.option(
    "--overwrite",
    multiple=True,
    metavar="REV",
    help="With --release: keep what REV says now, too.  [default: never]",
)
def lint(
    output: Output,
    named: Named,
    *,
    strict: bool,
    fix: bool,
    release: bool,
    overwrite: tuple[str, ...],
) -> int:
    """Say what is wrong with the migrations.

    Exits 1 where anything is refused; what is only noted is refused with --strict. Run by
    the person who writes a migration, and by CI. An installed package's are only looked at.
    No database is used, so -d and -u make no difference.

    When a revision is released, --release writes a digest of every statement that it says
    into released.json: from then on its comments may change, and its meaning may not.
    """
    del named
    if overwrite and not release:
        raise click.UsageError("--overwrite REV belongs to --release.")
    from nextcloud_mcp_server.authoring.lint import review  # noqa: PLC0415 - imports Alembic
    from nextcloud_mcp_server.authoring.lint.rules import refused  # noqa: PLC0415 - see above

    found, written = review.review(), None
    if fix:
        written = review.fix(found)
        found = found if written is None else review.review()
    if release:
        added = review.release(found, overwrite)
        found = review.review()
    lines = [*problem_lines(found.problems, strict=strict)]
    document = {**review_facts(found, strict=strict), "wrote": None}
    if written is not None:
        document["wrote"] = str(written)
        lines.append(f"wrote {shown(written)}")
    if release:
        document["released"] = list(added)
        lines.append(f"released {', '.join(added)}" if added else "every revision was released")
    output.result(document, *lines, summary_line(found, strict=strict))
    return int(refused(found.problems, strict=strict))


def problem_lines(problems: Sequence[Problem], *, strict: bool) -> list[str]:
    """Each problem as a line that an editor can follow, and one with what to do."""
    lines = []
    for found in problems:
        what = "refused" if strict or found.refuses else "noted"
        place = f"{shown(found.path)}:{found.line}"
        lines.append(f"{place}: {what}: {printable(found.message)} [{found.rule}]")
        lines.append(f"    {printable(found.remedy)}")
    return lines


def summary_line(found: Review, *, strict: bool) -> str:
    """How many were refused and noted, of how many revisions."""
    refused = sum(strict or problem.refuses for problem in found.problems)
    count = f"{counted(len(found.scripts), 'revision')} in {shown(found.folder / 'versions')}"
    if not found.problems:
        return f"clean: {count}"
    rest = "" if found.whole else "; what they say was not looked at"
    return f"{refused} refused, {len(found.problems) - refused} noted: {count}{rest}"


def review_facts(found: Review, *, strict: bool) -> dict[str, Any]:
    """The same, for ``--json``."""
    return {
        "scripts": str(found.folder),
        "strict": strict,
        "whole": found.whole,
        "revisions": [script.id for script in found.scripts],
        "unreleased": list(found.new),
        "problems": [
            {
                "file": str(problem.path),
                "line": problem.line,
                "rule": problem.rule,
                "refused": strict or problem.refuses,
                "message": problem.message,
                "remedy": problem.remedy,
            }
            for problem in found.problems
        ],
    }


def shown(path: Path) -> str:
    """A path from where the person stands, if it is below."""
    here = Path.cwd()
    return printable(str(path.relative_to(here) if path.is_relative_to(here) else path))
