"""What each state is owed: every finding has a plan or a refusal, and neither is half of one."""

from __future__ import annotations

import shlex
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import CODES, TokenStorageError
from nextcloud_mcp_server.migrate.plan import REFUSED, Action, Finding, State, plan, refusal
from nextcloud_mcp_server.schema.structure import Gaps
from tests.support.errors import attempt
from tests.support.structures import HISTORY

DATABASE = connect("/data/tokens.db")
ODD = connect("/data/it's; rm -rf x.db")

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
    """Every finding that a look can come to, and more."""
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


targets = st.one_of(st.none(), st.sampled_from(HISTORY.revisions))


@given(findings(), targets)
def test_a_plan_ends_at_its_target_or_refuses_with_a_remedy(
    finding: Finding, target: str | None
) -> None:
    """No plan that runs ends below its target; every refusal says what to do."""
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


@given(findings())
def test_a_plan_that_does_nothing_owes_nothing(finding: Finding) -> None:
    """Nothing is done only where no step, stamp, gap or mending is owed."""
    if finding.refused:
        return
    todo = plan(finding, HISTORY, DATABASE)
    owes = bool(
        todo.steps or todo.stamp or todo.gaps or todo.adopted or todo.unusable or not todo.start
    )
    assert todo.migrates == owes
    assert (todo.action is Action.NOTHING) == (not owes)


@given(findings())
def test_an_unversioned_database_is_stamped_with_what_it_is(finding: Finding) -> None:
    """The version row is written exactly where there is none, or more than the one."""
    if finding.refused:
        return
    todo = plan(finding, HISTORY, DATABASE)
    if finding.recorded is None or not finding.tidy:
        assert todo.stamp == finding.base
    else:
        assert todo.stamp is None


@given(findings())
def test_what_is_mended_is_told(finding: Finding) -> None:
    """Each table and gap that is mended is named in the words for a person."""
    if finding.refused:
        return
    todo = plan(finding, HISTORY, DATABASE)
    told = " ".join(todo.mends)
    assert all(name in told for name in (*finding.adopted, *finding.unusable))
    assert (str(finding.gaps) in told) == bool(finding.gaps)


@pytest.mark.parametrize("target", ["", "011", "base", "head", "10", "-1"])
def test_a_target_that_is_no_revision_is_refused(target: str) -> None:
    """A plan goes to a revision of this program, and to nothing that is only called so."""
    with pytest.raises(TokenStorageError) as caught:
        plan(Finding(State.NEW), HISTORY, DATABASE, target)
    assert caught.value.code == "unknown-revision"


@pytest.mark.parametrize("state", sorted(REFUSED))
def test_every_refusal_has_words_of_its_own(state: State) -> None:
    """Each names the file, the reason and what to do, with no placeholder left over."""
    error = refusal(Finding(state, reason="it is so"), HISTORY, DATABASE)
    assert error.code == state.value
    assert str(DATABASE) in error.message
    assert "it is so" in error.message
    for text in (error.message, error.remedy):
        assert "\n" not in text
        assert not [name for _, name, _, _ in string.Formatter().parse(text) if name]


def test_a_path_with_braces_is_no_format() -> None:
    """A file called like a placeholder is named as it is."""
    for state in REFUSED:
        error = refusal(Finding(state, reason="{head}"), HISTORY, connect("/data/{path}{0}.db"))
        assert "/data/{path}{0}.db" in error.message


def test_the_states_are_the_codes_of_the_design() -> None:
    """Ten states; each refused one is an error code too."""
    assert len(State) == 10
    assert {state.value for state in REFUSED} <= CODES.keys()
    assert Snapshot().damage == ""


@pytest.mark.parametrize("state", sorted(REFUSED))
def test_a_command_in_a_remedy_can_be_typed(state: State) -> None:
    """Whatever is in the name of the file, a shell hands it on; the message has it plain."""
    error = refusal(Finding(state, reason="it is so"), HISTORY, ODD)
    assert str(ODD) in error.message
    quoted = shlex.quote(str(ODD))
    assert "rm -rf" not in error.remedy.replace(quoted, "")
    assert error.remedy.count("-d ") - error.remedy.count("or -d ") <= error.remedy.count(quoted)
