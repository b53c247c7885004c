"""A start on each file of the field brings it to head with everything in it, or refuses it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrate.startup import Outcome, prepare
from tests.history import corpus, crashes, oddities, refused, releases
from tests.history.case import Case
from tests.support import promises
from tests.support.revisions import HEAD
from tests.support.snapshot import Snapshot, snapshot

CASES = [
    *releases.all_cases(),
    *crashes.all_cases(),
    *oddities.all_cases(),
    *refused.all_cases(),
    *corpus.all_cases(),
]
ACCEPTED = [case for case in CASES if not case.refusal]
REFUSED = [case for case in CASES if case.refusal]


@dataclass(frozen=True)
class Started:
    """One file, before and after its first start."""

    case: Case
    path: Path
    before: Snapshot
    outcome: Outcome
    after: Snapshot
    mode: int


@pytest.fixture(scope="module", params=ACCEPTED, ids=lambda c: c.name)
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """The file of one case, brought to head."""
    case: Case = request.param
    path = tmp_path_factory.mktemp("history") / "tokens.db"
    case.write(path)
    mode = path.stat().st_mode
    before = snapshot(path)
    outcome = prepare(path)
    return Started(case, path, before, outcome, snapshot(path), mode)


def test_the_file_is_whole_at_head(started: Started) -> None:
    """Whatever it was, its structure is that of the newest revision, and it says so."""
    promises.complete_at_head(started.after)


def test_every_row_survives(started: Started) -> None:
    """Rows keep every value; only 004 rewrites, and only 010 drops."""
    case = started.case
    promises.rows_survive(started.before, started.after, case.base, case.adopted)


def test_what_is_not_ours_stays(started: Started) -> None:
    """An operator's objects and marks are kept, and so is the file's mode."""
    promises.strangers_stay(started.before, started.after)
    assert started.path.stat().st_mode == started.mode


def test_the_start_says_what_it_did(started: Started) -> None:
    """The outcome names the revision that the file counted as, and what was done."""
    case, outcome = started.case, started.outcome
    assert (outcome.before, outcome.after) == (case.base, HEAD)
    assert outcome.stamped is case.stamped
    assert outcome.action is _action(case)


def _action(case: Case) -> Action:
    if case.action == "create":
        return Action.CREATE
    if "stamp:" in case.action:
        return Action.STAMP
    if case.base != HEAD:
        return Action.UPGRADE
    return Action.NOTHING if case.action == "none" else Action.MEND


def test_the_backup_is_what_was_there(started: Started) -> None:
    """A file with rows that is changed leaves a private copy of its former self, no other does."""
    backup = started.outcome.backup
    changed = started.outcome.action is not Action.NOTHING
    if not (changed and promises.holds_rows(started.before)):
        assert backup is None
        return
    assert backup is not None
    promises.same_content(snapshot(backup), started.before)
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_second_start_does_nothing(started: Started) -> None:
    """At head, a start finds nothing to do, and changes no byte and no time."""
    before = promises.disk(started.path)
    assert prepare(started.path).action is Action.NOTHING
    promises.untouched(before, promises.disk(started.path))


async def test_every_secret_opens_through_the_store(started: Started) -> None:
    """Each secret that was sealed in the file is read back by the store."""
    case = started.case
    secrets = {**promises.sealed_in(started.before, case.key, case.adopted), **case.secrets}
    async with RefreshTokenStorage(started.path, encryption_key=case.key) as storage:
        assert await promises.read_through_the_store(storage, secrets) == secrets


async def test_a_clean_stop_leaves_one_file(started: Started) -> None:
    """After a stop ``cp`` copies everything: no -wal is left, even where nobody asked anything."""
    async with RefreshTokenStorage(started.path, encryption_key=started.case.key):
        pass
    assert promises.companions(started.path) == set()


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c.name)
def test_a_refused_file_is_not_touched(case: Case, tmp_path: Path) -> None:
    """A refusal has the code of what is wrong and a remedy, and leaves bytes, mode and times."""
    path = tmp_path / "tokens.db"
    case.write(path)
    path.chmod(0o640)
    before = promises.disk(path)
    with pytest.raises(TokenStorageError) as error:
        prepare(path)

    assert error.value.code == case.refusal
    assert error.value.remedy
    promises.untouched(before, promises.disk(path))


async def test_a_refused_file_opens_no_store(tmp_path: Path) -> None:
    """The store raises the same error and stays closed."""
    path = tmp_path / "tokens.db"
    next(c for c in REFUSED if c.refusal == "foreign").write(path)
    storage = RefreshTokenStorage(path)
    with pytest.raises(TokenStorageError, match="another application") as error:
        await storage.initialize()
    assert error.value.code == "foreign"


@pytest.mark.skipif(not corpus.ARCHIVE.exists(), reason="the corpus is not beside the checkout")
def test_the_corpus_is_all_there() -> None:
    """Where the corpus is present, every one of its files is a case."""
    databases = {name for name in corpus.files() if name.endswith(".db")}
    assert len(databases) == len(corpus.all_cases()) == 145


def test_every_name_is_given_once() -> None:
    """No case hides behind another's name."""
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
