"""``db lint``: read every revision, ask it what it says, and tell what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.authoring.lint import released
from nextcloud_mcp_server.authoring.lint.chain import line_problems
from nextcloud_mcp_server.authoring.lint.docstrings import text_problems
from nextcloud_mcp_server.authoring.lint.emitted_sql import (
    DIRECTIONS,
    Emitted,
    emitted,
    read_anew,
    tried,
)
from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem, refused
from nextcloud_mcp_server.authoring.lint.statements import statement_problems
from nextcloud_mcp_server.authoring.lint.version_files import Script, read_scripts
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.migrate import structures
from nextcloud_mcp_server.schema import history
from nextcloud_mcp_server.schema.history import (
    STRUCTURE_FILE,
    History,
    dump_structures,
    is_checkout,
    load_history,
)
from nextcloud_mcp_server.schema.structure import Structure


@dataclass(frozen=True)
class Review:
    """What a look at the migrations found.

    Attributes:
        folder: the folder of the scripts.
        scripts: the version files, by id.
        problems: what is wrong, by file and line.
        whole: whether what they say was looked at, too: where they are not one line, nobody
            can ask them.
        meanings: what each released or new revision does, by id.
        structures: the structure at each revision; None where they do not run.
    """

    folder: Path
    scripts: tuple[Script, ...]
    problems: tuple[Problem, ...]
    whole: bool
    meanings: Mapping[str, released.Meaning]
    structures: Mapping[str, Structure] | None

    @property
    def new(self) -> tuple[str, ...]:
        """The ids of revisions that are not released yet."""
        known = released.load(self.folder)
        return tuple(script.id for script in self.scripts if script.id not in known)


def review(folder: Path | None = None) -> Review:
    """Look at the migrations in ``folder`` (default: the program's own). Changes nothing.

    Raises:
        TokenStorageError: ``no-migrations`` where there are none.
    """
    folder = folder or history.locate_scripts()
    load_history.cache_clear()
    scripts, problems = read_scripts(folder / "versions")
    if not scripts and not problems:
        load_history(folder)
    # A file that cannot be read is not gone.
    gone = frozenset() if problems else _gone(folder, scripts)
    broken = [*problems, *line_problems(scripts, gone)]
    if any(int(number) < int(scripts[-1].id) for number in gone):
        broken += released.deletions(folder, gone)
    texts = [found for script in scripts for found in text_problems(script)]
    missing = [found for found in texts if found.rule == "missing-function"]
    if broken or missing:
        return _review(folder, scripts, [*broken, *texts], whole=False)
    # Without the structures: their file may be one that a merge has left in conflict.
    line = History(folder, tuple(script.id for script in scripts), {})
    with read_anew():
        shown, failed = tried(line)
        said = emitted(line, {script.id: script.path for script in scripts})
    structures = None if shown is None else shown.up
    found = [*texts, *said.problems]
    found += [p for script in scripts for p in statement_problems(script, said)]
    meanings = {s.id: released.meaning(s, said) for s in scripts if _told(s, said)}
    found += _released(folder, scripts, meanings, said)
    found += [failed] if failed else ()
    found += _stale(folder, structures)
    return _review(folder, scripts, found, whole=True, meanings=meanings, structures=structures)


def _gone(folder: Path, scripts: list[Script]) -> frozenset[str]:
    """The released revisions that have no file."""
    with suppress(ValueError):
        known = released.load(folder).keys() - {script.id for script in scripts}
        return frozenset(number for number in known if number.isdecimal())
    return frozenset()


def _review(
    folder: Path,
    scripts: list[Script],
    problems: list[Problem],
    *,
    whole: bool,
    meanings: Mapping[str, released.Meaning] | None = None,
    structures: Mapping[str, Structure] | None = None,
) -> Review:
    return Review(
        folder, tuple(scripts), tuple(sorted(set(problems))), whole, meanings or {}, structures
    )


def _told(script: Script, said: Emitted) -> bool:
    keys = [key for key in said.statements if key[0] == script.path.name]
    return len(keys) == len(DIALECTS) * len(DIRECTIONS)


def _released(
    folder: Path, scripts: list[Script], meanings: Mapping[str, released.Meaning], said: Emitted
) -> Iterator[Problem]:
    try:
        known = released.load(folder)
    except ValueError as error:
        path = folder / released.RELEASED_FILE
        yield problem("released-file", path, 1, f"It cannot be read ({error}).")
        return
    for script in scripts:
        if script.id in known and script.id in meanings:
            yield from released.edits(script, known[script.id], meanings[script.id], said)
    yield from released.deletions(folder, known.keys() - {script.id for script in scripts})


def _stale(folder: Path, structures: Mapping[str, Structure] | None) -> Iterator[Problem]:
    if structures is None:
        return
    path = folder / STRUCTURE_FILE
    there = path.read_text("utf-8") if path.is_file() else ""
    made = dump_structures(structures)
    if there != made:
        pairs = zip(there.splitlines(), made.splitlines(), strict=False)
        line = next((n for n, (old, new) in enumerate(pairs, 1) if old != new), 1)
        yield problem("stale-structure", path, line, "It is not what the migrations make.")


def fix(found: Review) -> Path | None:
    """Generate ``structure.json`` anew where it is out of date, and return its path.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package.
    """
    _require_checkout(found.folder)
    if not any(p.rule == "stale-structure" for p in found.problems):
        return None
    line = History(found.folder, tuple(script.id for script in found.scripts), {})
    return structures.write_structures(line)


def release(found: Review, overwrite: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Write what every new revision says into ``released.json``, and return their ids.

    Args:
        found: the review, in which nothing may be refused or noted.
        overwrite: released revisions that were edited on purpose.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package; ``bad-input`` where
            anything is wrong, or ``overwrite`` names what is not released.
    """
    _require_checkout(found.folder)
    wrong = [p for p in found.problems if not _agreed(p, found, overwrite)]
    if refused(wrong, strict=True):
        raise TokenStorageError(
            f"Refused or noted: {counted(len(wrong), 'place')}, so nothing was released.",
            code="bad-input",
            remedy="Mend them first: nextcloud-mcp-server db lint --strict",
        )
    known = released.load(found.folder)
    for revision in overwrite:
        if revision not in known:
            raise TokenStorageError(
                f"Revision {revision} is not released, so there is nothing to overwrite.",
                code="bad-input",
                remedy="Leave it out: db lint --release takes every new revision by itself.",
            )
    chosen = (*found.new, *overwrite)
    known |= {revision: found.meanings[revision] for revision in chosen}
    if chosen:
        (found.folder / released.RELEASED_FILE).write_text(released.dump(known), "utf-8")
    return chosen


def _agreed(found: Problem, review: Review, overwrite: tuple[str, ...]) -> bool:
    """Whether it is an edit that was made on purpose."""
    names = {script.path for script in review.scripts if script.id in overwrite}
    return found.rule == "edited-release" and found.path in names


def _require_checkout(folder: Path) -> None:
    if folder == history.locate_scripts() and not is_checkout():
        raise TokenStorageError(
            "These migrations are those of an installed package, and are only looked at.",
            code="not-a-checkout",
            remedy="Clone the project, then there: uv run nextcloud-mcp-server db lint",
        )
