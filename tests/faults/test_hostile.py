"""Every command and a start in hostile places: no traceback, no hang, no change."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.filesystem.literal import not_literal
from tests.cli import test_hostile as in_process
from tests.cli.places import REFUSED, SERVED, Shelf
from tests.faults.hostile import ALONE, AROUND, Maker, Models, Place, flipped
from tests.faults.programs import LIMIT, Ended, Invocation, ProgramServer
from tests.faults.trials import Trials, sample
from tests.support.contents import KEY
from tests.support.unprivileged import open_folder

#: Arguments of the commands beside ``-d``.
ARGUMENTS = {
    "downgrade": ("--yes",),
    "stamp": ("head",),
    "restore": ("{}/kept.db", "--yes", "--while-running"),
    "repair": ("--yes",),
}

#: Every command that uses a database.
COMMANDS = ["run", *sorted(db_commands.commands.keys() - {"copy", "lint", "migrate", "show"})]

#: Commands that must fail if the database cannot be used.
STRICT = {"run", "current", "check", "upgrade", "downgrade", "backup", "history", "stamp"}

#: Commands that read pages.
_ON_PAGES = ("run", "upgrade", "current", "backup", "downgrade")

#: Commands that report problems as their result.
REPORTING = {"audit", "doctor", "repair", "backups", "log"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A database at head and one behind."""
    return Models(tmp_path_factory.mktemp("models"))


def _fingerprint(path: Path) -> tuple[object, ...]:
    """Return the bytes, mode and time of any kind of file."""
    try:
        status = path.stat()
    except OSError as error:
        return (type(error),)
    content = path.read_bytes() if path.is_file() and status.st_size < 1 << 24 else status.st_size
    return (content, status.st_mode, status.st_mtime_ns)


def _invocation(name: str, place: Place, folder: Path) -> Invocation:
    environ = {"TOKEN_ENCRYPTION_KEY": KEY, **place.environ}
    if name == "run":
        environ["TOKEN_STORAGE_DB"] = str(place.path)
        arguments = ["run", "--port", "0"]
    else:
        more = (text.format(folder) for text in ARGUMENTS.get(name, ()))
        below = ["verify"] if name == "audit" else []
        arguments = ["db", name, *below, "-d", str(place.path), *more]
    return Invocation(arguments, Path("/"), place.user, place.clock, environ)


def _problems(name: str, place: Place, ended: Ended, *, changed: bool) -> list[str]:
    """Return what is wrong with the result of a command."""
    labels = [line.partition(": ")[0] for line in ended.output.splitlines()]
    clear = (labels.count("error"), labels.count("remedy")) == (1, 1)
    # It looks at the schema first, and writes nothing to a database that is not at head.
    pending = name == "prune" and "[upgrade-pending]" in ended.output
    named = pending or _named(place, ended.output)
    allowed = {0, 1, 3} if name in {"check", *REPORTING} else {0, 1}
    checks = {
        "hangs": ended.status is None or ended.seconds > LIMIT,
        "traceback": "Traceback" in ended.output or "unexpected" in ended.output,
        "status": ended.status not in allowed,
        "served": place.refused and name in STRICT and ended.status == 0,
        "misnamed": ended.status == 1 and name not in REPORTING and not named,
        "unclear": ended.status == 1 and name not in REPORTING and not clear,
        "error and 0": ended.status == 0 and "error" in labels,
        "changed": ended.status != 0 and changed and name != "repair",
    }
    return [what for what, wrong in checks.items() if wrong]


def _named(place: Place, output: str) -> bool:
    return not place.codes or any(f"[{code}]" in output for code in place.codes)


def _try(name: str, maker: Maker, programs: ProgramServer, models: Models, kind: str = "") -> str:
    """Run one command in a new place; return what is wrong, or an empty text."""
    with open_folder() as folder:
        if kind:
            models.put(kind, folder)
        shutil.copyfile(models.head, folder / "kept.db")
        with contextmanager(maker)(folder) as place:
            before = _fingerprint(place.path)
            [ended] = programs.run([_invocation(name, place, folder)], LIMIT + 2)
            wrong = _problems(name, place, ended, changed=_fingerprint(place.path) != before)
    return f"{name}: {wrong}: status {ended.status}: {ended.output}" if wrong else ""


@pytest.mark.parametrize("kind", ["head", "old"])
@pytest.mark.parametrize("name", AROUND)
def test_every_command_works_or_refuses_around(
    name: str, kind: str, programs: ProgramServer, models: Models, trials: Trials
) -> None:
    """Every command works or refuses the database quickly and without a change."""
    for command in sample(COMMANDS, f"{name}, {kind}"):
        problem = _try(command, AROUND[name], programs, models, kind)
        trials.count("commands in a hostile place", problem)
    trials.check()


@pytest.mark.parametrize("name", ALONE)
def test_every_command_works_or_refuses_without_a_database(
    name: str, programs: ProgramServer, models: Models, trials: Trials
) -> None:
    """Without a possible database every command fails quickly with a named error."""
    for command in sample(COMMANDS, name):
        problem = _try(command, ALONE[name], programs, models)
        trials.count("commands in a hostile place", problem)
    trials.check()


@pytest.mark.parametrize("kind", ["head", "old"])
def test_a_page_of_other_bytes_is_no_traceback(
    kind: str, programs: ProgramServer, models: Models, trials: Trials
) -> None:
    """Each damaged page is a named error or not read, and a refusal changes nothing."""
    pages = (models.folder / f"{kind}.db").stat().st_size // 4096
    points = [(page, command) for page in range(pages) for command in _ON_PAGES]
    for page, command in sample(points, kind):
        problem = _try(command, flipped(page), programs, models, kind)
        trials.count("commands on a damaged page", problem and f"page {page}: {problem}")
    trials.check()


#: What an environment variable can contain; an empty one counts as unset.
_NAMED = [kind for kind in in_process.IMPOSSIBLE if kind not in {"empty", "null-character"}]
_STARTS = [
    *(("impossible path", kind) for kind in _NAMED),
    *(("unusual name", name) for name in in_process.ODD_NAMES),
    *(("state", state) for state in (*SERVED, *REFUSED)),
]


@pytest.mark.parametrize(("kind", "name"), sample(_STARTS, "starts"))
def test_a_start_serves_or_refuses(kind: str, name: str, programs: ProgramServer) -> None:
    """A start refuses what is no path or not meant, uses other names, serves what it should."""
    with open_folder() as folder:
        text, refused = str(folder / name), kind == "impossible path" or name in REFUSED
        # Nobody means an escape sequence in a setting.
        refused |= kind == "unusual name" and bool(not_literal(text))
        if kind == "impossible path":
            text = str(in_process.IMPOSSIBLE[name](folder))
        elif kind == "state":
            # The grant in these databases is no ciphertext, so that the key is not checked.
            text = str(Shelf(folder).put(name, folder / "tokens.db"))
        place = Place(Path(text), refused=refused)
        # A refused start may leave a lock file beside a database.
        watched = [folder] if kind == "impossible path" else []
        before = _fingerprint(place.path), [sorted(path.iterdir()) for path in watched]
        run = _invocation("run", place, folder)
        run = replace(run, folder=folder, environ={**run.environ, "TOKEN_STORAGE_DB": text})
        [ended] = programs.run([run], LIMIT + 2)
        after = _fingerprint(place.path), [sorted(path.iterdir()) for path in watched]
        assert _problems("run", place, ended, changed=after != before) == []
        if kind == "unusual name" and not refused:
            assert ended.status == 0
            assert place.path.stat().st_size > 0
            assert all(path.name.startswith(name) for path in folder.iterdir())


def test_the_harness_detects_a_start_that_changes_what_it_refuses() -> None:
    """Negative control: a traceback, a hang, a change and a silent failure are detected."""
    place, order = Place(Path("x"), refused=True), Invocation(["run"])
    good = Ended(order, 1, "error: It is damaged.\nremedy: Restore it.\n", 0.1)
    assert _problems("run", place, good, changed=False) == []
    assert _problems("run", place, good, changed=True) == ["changed"]
    assert _problems("run", place, replace(good, status=None), changed=False) == ["hangs", "status"]
    assert _problems("run", place, replace(good, output=""), changed=False) == ["unclear"]
    full = replace(place, codes=("disk-full",))
    assert _problems("run", full, good, changed=False) == ["misnamed"]
    assert "traceback" in _problems(
        "run", place, replace(good, output="Traceback (most recent call last):"), changed=False
    )
    assert "served" in _problems("run", place, replace(good, status=0), changed=False)
