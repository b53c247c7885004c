"""``db lint``: check every revision, and release new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.authoring.lint import released
from nextcloud_mcp_server.authoring.lint.chain import line_problems
from nextcloud_mcp_server.authoring.lint.docstrings import text_problems
from nextcloud_mcp_server.authoring.lint.emitted_sql import (
    DIRECTIONS,
    Emitted,
    emit_sql,
    failure,
    without_bytecode,
)
from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem, refused
from nextcloud_mcp_server.authoring.lint.statements import statement_problems
from nextcloud_mcp_server.authoring.lint.version_files import Script, read_scripts
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.migrate import structures
from nextcloud_mcp_server.schema import history
from nextcloud_mcp_server.schema.history import (
    STRUCTURE_FILES,
    History,
    dump_structures,
    is_checkout,
    load_history,
)
from nextcloud_mcp_server.schema.structure import Structure


@dataclass(frozen=True)
class Review:
    """The result of checking the migrations.

    The scripts are sorted by id, the problems by file and line. ``whole`` tells whether the SQL
    was checked too, which needs a linear history; ``digests`` has each revision that runs, by id.
    """

    folder: Path
    scripts: tuple[Script, ...]
    problems: tuple[Problem, ...]
    whole: bool
    digests: Mapping[str, released.Digests]

    @property
    def new(self) -> tuple[str, ...]:
        """The ids of the unreleased revisions."""
        known = released.load(self.folder)
        return tuple(script.id for script in self.scripts if script.id not in known)


def review(folder: Path | None = None) -> Review:
    """Check the migrations in ``folder`` (default: the program's own), and change nothing.

    Raises:
        TokenStorageError: ``no-migrations`` if there are none.
    """
    folder = folder or history.locate_scripts()
    load_history.cache_clear()
    scripts, problems = read_scripts(folder / "versions")
    if not scripts and not problems:
        load_history(folder)
    # An unreadable file is not a missing one.
    gone = frozenset() if problems else _gone(folder, scripts)
    broken = [*problems, *line_problems(scripts, gone)]
    if any(int(number) < int(scripts[-1].id) for number in gone):
        broken += released.deletions(folder, gone)
    texts = [found for script in scripts for found in text_problems(script)]
    missing = [found for found in texts if found.rule == "missing-function"]
    if broken or missing:
        return Review(folder, tuple(scripts), _sorted([*broken, *texts]), False, {})
    # Without structure.json, which may contain a merge conflict.
    line = History(folder, tuple(script.id for script in scripts), {})
    with without_bytecode():
        made, error = structures.up_and_down(line)
        emitted = emit_sql(line, {script.id: script.path for script in scripts})
        stale = list(_stale(line, made))
    found = [*texts, *emitted.problems]
    found += [p for script in scripts for p in statement_problems(script, emitted)]
    digests = {s.id: released.digests(s, emitted) for s in scripts if _completed(s, emitted)}
    found += _released(folder, scripts, digests, emitted)
    found += [failure(error, folder)] if error else ()
    found += stale
    return Review(folder, tuple(scripts), _sorted(found), True, digests)


def _gone(folder: Path, scripts: list[Script]) -> frozenset[str]:
    """Return the released revisions that have no file."""
    with suppress(ValueError):
        known = released.load(folder).keys() - {script.id for script in scripts}
        return frozenset(number for number in known if number.isdecimal())
    return frozenset()


def _sorted(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(set(problems)))


def _completed(script: Script, emitted: Emitted) -> bool:
    keys = [key for key in emitted.statements if key[0] == script.path.name]
    return len(keys) == len(DIALECTS) * len(DIRECTIONS)


def _released(
    folder: Path, scripts: list[Script], digests: Mapping[str, released.Digests], emitted: Emitted
) -> Iterator[Problem]:
    try:
        known = released.load(folder)
    except ValueError as error:
        path = folder / released.RELEASED_FILE
        yield problem("released-file", path, 1, f"It cannot be read ({error}).")
        return
    for script in scripts:
        if script.id in known and script.id in digests:
            yield from released.edits(script, known[script.id], digests[script.id], emitted)
    yield from released.deletions(folder, known.keys() - {script.id for script in scripts})


def _stale(line: History, made: dict[str, Structure] | None) -> Iterator[Problem]:
    if made is None:
        return
    for engine, name in STRUCTURE_FILES.items():
        with suppress(TokenStorageError):
            expected = dump_structures(structures.on_engine(line, engine, made))
            yield from _differs(line.directory / name, expected)


def _differs(path: Path, made: str) -> Iterator[Problem]:
    there = path.read_text("utf-8") if path.is_file() else ""
    if there != made:
        pairs = zip(there.splitlines(), made.splitlines(), strict=False)
        line = next((n for n, (old, new) in enumerate(pairs, 1) if old != new), 1)
        yield problem(
            "stale-structure", path, line, "It differs from the result of the migrations."
        )


def fix(found: Review) -> Path | None:
    """Generate the files of the structures again if one is out of date; return SQLite's.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package.
    """
    _require_checkout(found.folder)
    if not any(p.rule == "stale-structure" for p in found.problems):
        return None
    line = History(found.folder, tuple(script.id for script in found.scripts), {})
    return structures.write_structures(line)


def release(found: Review, overwrite: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Add every new revision to ``released.json``, and return their ids.

    Args:
        found: the review, which must have no problems.
        overwrite: released revisions that were edited on purpose.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package; ``bad-input`` if there
            is a problem, or a revision in ``overwrite`` is not released.
    """
    _require_checkout(found.folder)
    wrong = [p for p in found.problems if not _intended(p, found, overwrite)]
    if refused(wrong, strict=True):
        raise TokenStorageError(
            f"Nothing was released: lint reports {counted(len(wrong), 'problem')}.",
            code="bad-input",
            remedy="Show them with: nextcloud-mcp-server db lint --strict",
        )
    known = released.load(found.folder)
    for revision in overwrite:
        if revision not in known:
            raise TokenStorageError(
                f"Revision {revision} is not released, so it cannot be overwritten.",
                code="bad-input",
                remedy="Omit it: db lint --release adds every new revision.",
            )
    chosen = (*found.new, *overwrite)
    known |= {revision: found.digests[revision] for revision in chosen}
    if chosen:
        (found.folder / released.RELEASED_FILE).write_text(released.dump(known), "utf-8")
    return chosen


def _intended(found: Problem, review: Review, overwrite: tuple[str, ...]) -> bool:
    """Return whether the problem is an edit of a revision in ``overwrite``."""
    names = {script.path for script in review.scripts if script.id in overwrite}
    return found.rule == "edited-release" and found.path in names


def _require_checkout(folder: Path) -> None:
    if folder == history.locate_scripts() and not is_checkout():
        raise TokenStorageError(
            "These migrations belong to an installed package, which is not changed.",
            code="not-a-checkout",
            remedy="Clone the project, then there: uv run nextcloud-mcp-server db lint",
        )
