"""A process killed at every statement of a migration on a server: it is made, or it is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest

from tests.faults.server_process import CLIENT, KILLED, SENT, TERMINATED, Starter
from tests.faults.servers import contents, database_behind
from tests.faults.trials import Trials, sample, sample_of_tests
from tests.support.pgbouncer import PgBouncer, pooled
from tests.support.postgresql import Server, running

#: Nothing of the machine is killed, so nothing must be on the disk.
_SETTINGS = {"fsync": "off", "full_page_writes": "off"}

#: Seconds that the start after a kill may take.
_SOON = 15.0


class Case(NamedTuple):
    """A migration that was not killed.

    Attributes:
        template: the database before.
        before: its contents.
        after: the contents after the migration.
        statements: what the migration executes.
    """

    template: str
    before: dict[str, Any]
    after: dict[str, Any]
    statements: list[str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server whose processes are killed."""
    with running(settings=_SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    """A process that forks starts."""
    with closing(Starter()) as starter:
        yield starter


@pytest.fixture(scope="module")
def case(server: Server, starter: Starter) -> Case:
    """The migration."""
    template = database_behind(server)
    before = contents(server, template)
    done = server.database(template)
    ended = starter.start(server.url(done))
    assert ended.end == "upgrade"
    after = contents(server, done)
    assert after != before
    return Case(template, before, after, ended.statements)


class Place(NamedTuple):
    """Where a migration runs.

    Attributes:
        case: what it is.
        server: the server.
        starter: forks the processes.
        pooler: between the two; None for direct connections.
    """

    case: Case
    server: Server
    starter: Starter
    pooler: PgBouncer | None

    def __str__(self) -> str:
        return "PgBouncer" if self.pooler else "direct"

    def trial(self, at: int, kind: str) -> str:
        """Kill at a statement, and start again; return the problem."""
        name = self.server.database(self.case.template)
        url = (self.pooler or self.server).url(name)
        ended = self.starter.start(url, at, kind, self.server.url())
        if kind in {CLIENT, SENT} and ended.end != "killed":
            return f"it was not killed: {ended}"
        found = contents(self.server, name)
        if found not in (self.case.before, self.case.after):
            return "it is between"
        if ended.end == "upgrade" and found != self.case.after:
            return "it was acknowledged and is not there"
        begun = time.monotonic()
        again = self.starter.start(url)
        seconds = time.monotonic() - begun
        if again.end not in {"upgrade", "nothing"}:
            return f"the next start: {again.end}"
        if contents(self.server, name) != self.case.after:
            return "the next start did not complete it"
        self.server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        return f"the next start took {seconds:.1f} s" if seconds > _SOON else ""


@pytest.fixture(params=["direct", "PgBouncer"])
def place(
    request: pytest.FixtureRequest, case: Case, server: Server, starter: Starter
) -> Iterator[Place]:
    """Where a migration runs."""
    if request.param == "direct":
        yield Place(case, server, starter, None)
        return
    with pooled(server, retry=1) as pooler:
        yield Place(case, server, starter, pooler)


@pytest.mark.parametrize("kind", sample_of_tests((CLIENT, TERMINATED, KILLED), "server kills"))
def test_a_migration_that_is_killed_is_made_or_not(kind: str, place: Place, trials: Trials) -> None:
    """After a kill at any statement the database is as before or after, and can be started."""
    statements = place.case.statements
    for at in sample(range(1, len(statements) + 1), f"{kind} {place}"):
        wrong = place.trial(at, kind)
        told = wrong and f"{statements[at - 1][:60]!r} ({at}): {wrong}"
        trials.count(f"PostgreSQL: {kind}, {place}", told)
    trials.check()


def test_a_client_that_is_killed_after_its_commit_was_sent(place: Place, trials: Trials) -> None:
    """Whether it was committed cannot be known, but it is never committed in part."""
    statements = place.case.statements
    at = len(statements) - statements[::-1].index("COMMIT")
    for _ in sample(range(20)):
        trials.count("PostgreSQL: client, COMMIT sent", place.trial(at, SENT))
    trials.check()


def test_a_commit_after_each_revision_is_detected(
    case: Case, server: Server, starter: Starter
) -> None:
    """Negative control: a start that commits in between leaves what is neither."""
    name = server.database(case.template)
    starter.start(server.url(name), len(case.statements) - 1, CLIENT, commits=True)
    assert contents(server, name) not in (case.before, case.after)
