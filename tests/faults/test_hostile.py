"""Every command, and a start, in every hostile place: no traceback, no hang, nothing changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nextcloud_mcp_server.cli.db.group import db_commands
from tests.cli import test_hostile as in_process
from tests.cli.places import REFUSED, SERVED, Shelf
from tests.faults.hostile import ALONE, AROUND, Maker, Models, Place, flipped
from tests.faults.programs import LIMIT, Ended, Invocation, ProgramServer
from tests.faults.trials import SEED, Trials, sample
from tests.support.contents import KEY
from tests.support.unprivileged import open_folder

#: What the commands take beside ``-d``.
ARGUMENTS = {
    "downgrade": ("--yes",),
    "stamp": ("head",),
    "restore": ("{}/kept.db", "--yes", "--while-running"),
    "repair": ("--yes",),
}

#: Every command that uses a database; the others are about the source files of the migrations.
COMMANDS = ["run", *sorted(db_commands.commands.keys() - {"lint", "migrate", "show"})]

#: Those that a place may refuse whose database cannot be used.
STRICT = {"run", "current", "check", "upgrade", "downgrade", "backup", "history", "stamp"}

#: Those that read what is in the pages, one way or another.
_ON_PAGES = ("run", "upgrade", "current", "backup", "downgrade")

#: What these say of trouble is their result: findings, and what became of them.
REPORTING = {"doctor", "repair", "backups", "log"}


@pytest.fixture(scope="module")
def programs() -> Iterator[ProgramServer]:
    """The process that forks the program."""
    with ProgramServer() as process:
        yield process


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A database at head and one behind."""
    return Models(tmp_path_factory.mktemp("models"))


def _fingerprint(path: Path) -> tuple[object, ...]:
    """Bytes, mode and time of what is at ``path``, whatever it is."""
    try:
        status = path.stat()
    except OSError as error:
        return (type(error),)
    content = path.read_bytes() if path.is_file() and status.st_size < 1 << 24 else status.st_size
    return (content, status.st_mode, status.st_mtime_ns)


def _order(name: str, place: Place, folder: Path) -> Invocation:
    environ = {"TOKEN_ENCRYPTION_KEY": KEY, **place.environ}
    if name == "run":
        environ["TOKEN_STORAGE_DB"] = str(place.path)
        arguments = ["run", "--port", "0"]
    else:
        more = (text.format(folder) for text in ARGUMENTS.get(name, ()))
        arguments = ["db", name, "-d", str(place.path), *more]
    return Invocation(arguments, Path("/"), place.user, place.clock, environ)


def _judge(name: str, place: Place, ended: Ended, *, changed: bool) -> list[str]:
    """What is wrong with how a command ended."""
    labels = [line.partition(": ")[0] for line in ended.output.splitlines()]
    clear = (labels.count("error"), labels.count("remedy")) == (1, 1)
    allowed = {0, 1, 3} if name in {"check", *REPORTING} else {0, 1}
    checks = {
        "hangs": ended.status is None or ended.seconds > LIMIT,
        "traceback": "Traceback" in ended.output or "unexpected" in ended.output,
        "status": ended.status not in allowed,
        "served": place.refused and name in STRICT and ended.status == 0,
        "misnamed": ended.status == 1 and name not in REPORTING and not _named(place, ended.output),
        "unclear": ended.status == 1 and name not in REPORTING and not clear,
        "error and 0": ended.status == 0 and "error" in labels,
        "changed": ended.status != 0 and changed and name != "repair",
    }
    return [what for what, wrong in checks.items() if wrong]


def _named(place: Place, output: str) -> bool:
    return not place.codes or any(f"[{code}]" in output for code in place.codes)


def _try(name: str, maker: Maker, programs: ProgramServer, models: Models, folder: Path) -> str:
    """Run one command in a newly made place: what is wrong, in words; empty when all is well."""
    folder.chmod(0o755)
    shutil.copyfile(models.head, folder / "kept.db")
    with contextmanager(maker)(folder) as place:
        before = _fingerprint(place.path)
        [ended] = programs.run([_order(name, place, folder)], LIMIT + 2)
        wrong = _judge(name, place, ended, changed=_fingerprint(place.path) != before)
    return f"{name}: {wrong}: status {ended.status}: {ended.output}" if wrong else ""


@pytest.mark.parametrize("kind", ["head", "old"])
@pytest.mark.parametrize("name", AROUND)
def test_every_command_is_honest_around(
    name: str, kind: str, programs: ProgramServer, models: Models, trials: Trials
) -> None:
    """Whatever surrounds a database, every command serves or refuses it at once, and unchanged."""
    wrong = []
    for command in sample(COMMANDS, f"{name}, {kind}"):
        with open_folder() as folder:
            models.put(kind, folder)
            trouble = _try(command, AROUND[name], programs, models, folder)
        trials.count("commands in a hostile place", trouble)
        wrong.append(trouble)
    assert [*filter(None, wrong)] == [], SEED


@pytest.mark.parametrize("name", ALONE)
def test_every_command_is_honest_where_no_database_is(
    name: str, programs: ProgramServer, models: Models, trials: Trials
) -> None:
    """Where no database lies, nor can, every command says so at once."""
    wrong = []
    for command in sample(COMMANDS, name):
        with open_folder() as folder:
            trouble = _try(command, ALONE[name], programs, models, folder)
        trials.count("commands in a hostile place", trouble)
        wrong.append(trouble)
    assert [*filter(None, wrong)] == [], SEED


@pytest.mark.parametrize("kind", ["head", "old"])
def test_a_page_of_other_bytes_is_no_traceback(
    kind: str, programs: ProgramServer, models: Models, trials: Trials
) -> None:
    """Whichever page is damaged, no command fails without a word, and no refusal changes it."""
    pages = (models.folder / f"{kind}.db").stat().st_size // 4096
    points = [(page, command) for page in range(pages) for command in _ON_PAGES]
    wrong = []
    for page, command in sample(points, kind):
        with open_folder() as folder:
            models.put(kind, folder)
            trouble = _try(command, flipped(page), programs, models, folder)
        trials.count("commands on a damaged page", trouble)
        wrong += [f"page {page}: {trouble}"] if trouble else []
    assert wrong == [], SEED


#: What the environment can name; an empty variable counts as unset.
_NAMED = [kind for kind in in_process.IMPOSSIBLE if kind not in {"empty", "null-character"}]


@pytest.mark.parametrize("kind", sample(_NAMED))
def test_a_start_on_an_impossible_path_is_refused(kind: str, programs: ProgramServer) -> None:
    """Where no database can lie, a start says so at once, with a remedy, and exits 1."""
    with open_folder() as folder:
        text = str(in_process.IMPOSSIBLE[kind](folder))
        place = Place(Path(text), refused=True)
        before = sorted(folder.iterdir())
        order = _order("run", place, folder)
        environ = {**order.environ, "TOKEN_STORAGE_DB": text}
        [ended] = programs.run([Invocation(order.arguments, folder, environ=environ)], LIMIT + 2)
        assert _judge("run", place, ended, changed=sorted(folder.iterdir()) != before) == []


@pytest.mark.parametrize("name", sample(in_process.ODD_NAMES))
def test_a_start_uses_an_odd_name_as_it_is(name: str, programs: ProgramServer) -> None:
    """Whatever the name holds, a start makes the file of that name."""
    with open_folder() as folder:
        place = Place(folder / name)
        [ended] = programs.run([_order("run", place, folder)], LIMIT + 2)
        assert (ended.status, _judge("run", place, ended, changed=False)) == (0, [])
        assert place.path.stat().st_size > 0
        assert all(path.name.startswith(name) for path in folder.iterdir())


@pytest.mark.parametrize("state", sample([*SERVED, *REFUSED]))
def test_a_start_serves_or_refuses_each_state(
    state: str, programs: ProgramServer, tmp_path: Path
) -> None:
    """A start serves what it should, and refuses all else without a change."""
    path = Shelf(tmp_path).put(state, tmp_path / "tokens.db")
    # The one grant in these databases is no ciphertext, so no key is asked for it.
    place = Place(path, refused=state in REFUSED)
    before = _fingerprint(path)
    [ended] = programs.run([_order("run", place, tmp_path)], LIMIT + 2)
    assert _judge("run", place, ended, changed=_fingerprint(path) != before) == []


def test_the_harness_detects_a_start_that_changes_what_it_refuses() -> None:
    """Negative control: a traceback, a hang, a change and a silent failure are each found."""
    place, order = Place(Path("x"), refused=True), Invocation(["run"])
    good = Ended(order, 1, "error: It is damaged.\nremedy: Restore it.\n", 0.1)
    assert _judge("run", place, good, changed=False) == []
    assert _judge("run", place, good, changed=True) == ["changed"]
    assert _judge("run", place, replace(good, status=None), changed=False) == ["hangs", "status"]
    assert _judge("run", place, replace(good, output=""), changed=False) == ["unclear"]
    full = replace(place, codes=("disk-full",))
    assert _judge("run", full, good, changed=False) == ["misnamed"]
    assert "traceback" in _judge(
        "run", place, replace(good, output="Traceback (most recent call last):"), changed=False
    )
    assert "served" in _judge("run", place, replace(good, status=0), changed=False)
