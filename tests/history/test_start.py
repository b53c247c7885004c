"""A start migrates each file to head with its content, or refuses it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrate.startup import Outcome
from tests.history import corpus, interrupted_upgrades, refused_files, released_files, unusual_files
from tests.history.case import Case
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import refused, refuses
from tests.support.revisions import HEAD
from tests.support.snapshot import Snapshot, snapshot

CASES = [
    *released_files.all_cases(),
    *interrupted_upgrades.all_cases(),
    *unusual_files.all_cases(),
    *refused_files.all_cases(),
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


@pytest.fixture(scope="module", params=ACCEPTED, ids=lambda c: c.name)
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Started:
    """Return the file of one case, migrated to head."""
    case: Case = request.param
    path = tmp_path_factory.mktemp("history") / "tokens.db"
    case.write(path)
    before = snapshot(path)
    outcome = prepare(path)
    return Started(case, path, before, outcome, snapshot(path))


def test_the_file_is_complete_at_head(started: Started) -> None:
    """The schema and the version row are those of the newest revision."""
    invariants.complete_at_head(started.after)


def test_every_row_survives(started: Started) -> None:
    """Rows keep every value; only 004 rewrites and only 010 drops."""
    case = started.case
    invariants.rows_survive(started.before, started.after, case.base, case.adopted)


def test_operator_objects_stay(started: Started) -> None:
    """An operator's objects and pragmas are kept, and the file is private afterwards."""
    invariants.operator_objects_stay(started.before, started.after)
    assert stat.S_IMODE(started.path.stat().st_mode) == 0o600


def test_the_outcome_is_correct(started: Started) -> None:
    """The outcome has the revision that the file counted as, and the action."""
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


def test_the_backup_has_the_old_content(started: Started) -> None:
    """There is a private backup with the old content if a file with rows was changed."""
    backup = started.outcome.backup
    changed = started.outcome.action is not Action.NOTHING
    if not (changed and invariants.holds_rows(started.before)):
        assert backup is None
        return
    assert backup is not None
    invariants.same_content(snapshot(backup), started.before)
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_second_start_does_nothing(started: Started) -> None:
    """A second start has nothing to do and changes no byte and no time."""
    with invariants.unchanged(started.path):
        assert prepare(started.path).action is Action.NOTHING


async def test_every_secret_is_readable(started: Started) -> None:
    """The store returns each encrypted secret of the file."""
    case = started.case
    secrets = {**invariants.secrets_in(started.before, case.key, case.adopted), **case.secrets}
    async with RefreshTokenStorage(started.path, encryption_key=case.key) as storage:
        assert await invariants.read_through_the_store(storage, secrets) == secrets


async def test_a_clean_stop_leaves_one_file(started: Started) -> None:
    """After close() no -wal is left, so that ``cp`` copies everything."""
    async with RefreshTokenStorage(started.path, encryption_key=started.case.key):
        pass
    assert invariants.companions(started.path) == set()


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c.name)
def test_a_refused_file_is_not_changed(case: Case, tmp_path: Path) -> None:
    """The error has the code and a remedy; bytes, mode and times stay."""
    path = tmp_path / "tokens.db"
    case.write(path)
    path.chmod(0o640)
    with invariants.unchanged(path):
        error = refused(lambda: prepare(path))
        assert error.code == case.refusal
        assert error.remedy


async def test_a_refused_file_opens_no_store(tmp_path: Path) -> None:
    """The store raises the same error and stays closed."""
    path = tmp_path / "tokens.db"
    next(c for c in REFUSED if c.refusal == "foreign").write(path)
    storage = RefreshTokenStorage(path)
    with refuses("foreign", match="another application"):
        await storage.initialize()


@pytest.mark.skipif(not corpus.ARCHIVE.exists(), reason="the corpus is not beside the checkout")
def test_the_corpus_is_complete() -> None:
    """If the corpus is available, each of its files is a case."""
    databases = {name for name in corpus.files() if name.endswith(".db")}
    assert len(databases) == len(corpus.all_cases()) == 145


def test_the_names_are_unique() -> None:
    """No two cases have the same name."""
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))
