"""``db lint``: list the problems of the migrations, by file and line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import complete_revisions, without_database
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import counted, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.authoring.lint.review import Review
    from nextcloud_mcp_server.authoring.lint.rules import Problem


@click.command()
@without_database
@click.option("--strict", is_flag=True, help="Refuse problems that are otherwise only noted.")
@click.option("--fix", is_flag=True, help="Regenerate the structure files if they are outdated.")
@click.option(
    "--release", is_flag=True, help="Record each new revision, so that later edits are found."
)
@click.option(
    "--overwrite",
    multiple=True,
    metavar="REV",
    shell_complete=complete_revisions(),
    help="With --release: record REV again, as it is now.  [default: none]",
)
def lint(
    output: Output, *, strict: bool, fix: bool, release: bool, overwrite: tuple[str, ...]
) -> int:
    """Check the migrations and list their problems.

    Exits 1 if a problem is refused; --strict also refuses those that are only noted. The
    migrations of an installed package are never changed. Uses no database.

    --release writes a digest of every statement of a released revision into released.json.
    After that, its comments may change and its statements may not.
    """
    if overwrite and not release:
        raise click.UsageError("--overwrite REV needs --release.")
    from nextcloud_mcp_server.authoring.lint import review
    from nextcloud_mcp_server.authoring.lint.rules import refused

    result = review.review()
    written = review.fix(result) if fix else None
    if written is not None:
        result = review.review()
    if release:
        added = review.release(result, overwrite)
        result = review.review()
    lines = problem_lines(result.problems, strict=strict)
    wrote = None if written is None else str(written)
    document = {**review_facts(result, strict=strict), "wrote": wrote}
    if written is not None:
        lines.append(f"wrote {_relative(written)}")
    if release:
        document["released"] = list(added)
        lines.append(f"released {', '.join(added)}" if added else "every revision was released")
    output.result(document, *lines, summary_line(result, strict=strict))
    return int(refused(result.problems, strict=strict))


def problem_lines(problems: Sequence[Problem], *, strict: bool) -> list[str]:
    """Return two lines for each problem: one that an editor can follow, and its remedy."""
    lines = []
    for problem in problems:
        level = "refused" if strict or problem.refuses else "noted"
        place = f"{_relative(problem.path)}:{problem.line}"
        lines.append(f"{place}: {level}: {printable(problem.message)} [{problem.rule}]")
        lines.append(f"    {printable(problem.remedy)}")
    return lines


def summary_line(result: Review, *, strict: bool) -> str:
    """Return how many problems there are in how many revisions."""
    refused = sum(strict or problem.refuses for problem in result.problems)
    count = f"{counted(len(result.scripts), 'revision')} in {_relative(result.folder / 'versions')}"
    if not result.problems:
        return f"clean: {count}"
    rest = "" if result.whole else "; their statements were not checked"
    return f"{refused} refused, {len(result.problems) - refused} noted: {count}{rest}"


def review_facts(result: Review, *, strict: bool) -> dict[str, Any]:
    """Return the problems for ``--json``."""
    return {
        "scripts": str(result.folder),
        "strict": strict,
        "whole": result.whole,
        "revisions": [script.id for script in result.scripts],
        "unreleased": list(result.new),
        "problems": [
            {
                "file": str(problem.path),
                "line": problem.line,
                "rule": problem.rule,
                "refused": strict or problem.refuses,
                "message": problem.message,
                "remedy": problem.remedy,
            }
            for problem in result.problems
        ],
    }


def _relative(path: Path) -> str:
    """Return a path relative to the current folder, if it is below it."""
    here = Path.cwd()
    return printable(str(path.relative_to(here) if path.is_relative_to(here) else path))
