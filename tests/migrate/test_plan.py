"""Every finding has a plan or an error with a remedy."""

from __future__ import annotations

import shlex
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import CODES, TokenStorageError
from nextcloud_mcp_server.migrate.plan import REFUSED, Action, Finding, State, plan, refusal
from nextcloud_mcp_server.schema.structure import Gaps
from tests.support.errors import attempt, refuses
from tests.support.structures import HISTORY

DATABASE = connect("/data/tokens.db")
ODD = connect("/data/it's; rm -rf {path}{0}.db")

gap_lists = st.sampled_from(
    [
        Gaps(),
        Gaps(("app_passwords",)),
        Gaps((), (("refresh_tokens", "scopes"),)),
        Gaps((), (), ("i",)),
    ]
)
subsets = st.sampled_from([(), ("batch_ocr_jobs",)])


@st.composite
def findings(draw: st.DrawFn) -> Finding:
    """Every finding that an inspection can have, and more."""
    state = draw(st.sampled_from(State))
    base = draw(st.sampled_from(HISTORY.revisions))
    recorded: str | None = base
    if state is State.NEW or state in REFUSED:
        return Finding(state, reason="it is so")
    if state is State.PRE_ALEMBIC:
        recorded = None
    if state is State.AT_HEAD:
        recorded = base = HISTORY.head
    return Finding(
        state,
        recorded,
        base,
        draw(gap_lists),
        draw(subsets),
        draw(subsets),
        draw(st.booleans()),
        "it is so",
    )


accepted = findings().filter(lambda finding: not finding.refused)
targets = st.one_of(st.none(), st.sampled_from(HISTORY.revisions))


@given(findings(), targets)
def test_a_plan_ends_at_its_target_or_is_refused(finding: Finding, target: str | None) -> None:
    """No plan ends below its target; every refusal has a remedy."""
    wanted = target or HISTORY.head
    todo = attempt(lambda: plan(finding, HISTORY, DATABASE, target))
    if isinstance(todo, TokenStorageError):
        assert todo.remedy.strip()
        assert finding.refused or (finding.base is not None and finding.base > wanted)
        assert todo.code == (finding.state.value if finding.refused else "bad-input")
        return
    assert not finding.refused
    passed = (*filter(None, [todo.start]), *todo.steps)
    assert passed[-1:] == (todo.target,) == (wanted,)
    begin = HISTORY.revisions.index(passed[0])
    assert passed == HISTORY.revisions[begin : begin + len(passed)]
    assert todo.start is not None or begin == 0


@given(accepted)
def test_a_plan_does_nothing_if_nothing_is_pending(finding: Finding) -> None:
    """The action is "nothing" only if no step, stamp, gap or repair is pending."""
    todo = plan(finding, HISTORY, DATABASE)
    pending = bool(
        todo.steps or todo.stamp or todo.gaps or todo.adopted or todo.unusable or not todo.start
    )
    assert todo.migrates == pending
    assert (todo.action is Action.NOTHING) == (not pending)


@given(accepted)
def test_a_missing_or_wrong_version_row_is_stamped(finding: Finding) -> None:
    """The version row is written only if there is none, or more than one."""
    tidy = finding.recorded is not None and finding.tidy
    assert plan(finding, HISTORY, DATABASE).stamp == (None if tidy else finding.base)


@given(accepted)
def test_every_repair_is_described(finding: Finding) -> None:
    """The description of the repairs names each table and gap."""
    todo = plan(finding, HISTORY, DATABASE)
    text = " ".join(todo.mends)
    assert all(name in text for name in (*finding.adopted, *finding.unusable))
    assert (str(finding.gaps) in text) == bool(finding.gaps)


@pytest.mark.parametrize("target", ["", "011", "head", "10"])
def test_a_target_that_is_no_revision_is_refused(target: str) -> None:
    """A target is a revision of this program."""
    with refuses("unknown-revision"):
        plan(Finding(State.NEW), HISTORY, DATABASE, target)


@pytest.mark.parametrize("target", ["base", "-1"])
def test_a_target_that_goes_down_is_wrong_usage(target: str) -> None:
    """A step back is no upgrade, whatever the database is: the exit status is 2."""
    with refuses("bad-input") as caught:
        plan(Finding(State.NEW), HISTORY, DATABASE, target)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("state", sorted(REFUSED))
def test_every_refusal_has_a_text(state: State) -> None:
    """Each has the file, the reason and a remedy, and no placeholder."""
    error = refusal(Finding(state, reason="it is so"), HISTORY, DATABASE)
    assert error.code == state.value
    assert str(DATABASE) in error.message
    assert "it is so" in error.message
    for text in (error.message, error.remedy):
        assert "\n" not in text
        assert not [name for _, name, _, _ in string.Formatter().parse(text) if name]


def test_every_refused_state_is_a_code() -> None:
    """There are eleven states; each refused one is an error code."""
    assert len(State) == 11
    assert {state.value for state in REFUSED} <= CODES.keys()


@pytest.mark.parametrize("state", sorted(REFUSED))
def test_a_command_in_a_remedy_can_be_typed(state: State) -> None:
    """The name is quoted in commands, plain in the message, and never used as a format."""
    error = refusal(Finding(state, reason="{head}"), HISTORY, ODD)
    assert str(ODD) in error.message
    quoted = shlex.quote(str(ODD))
    assert "rm -rf" not in error.remedy.replace(quoted, "")
    assert error.remedy.count("-d ") - error.remedy.count("or -d ") <= error.remedy.count(quoted)
