"""Every error that a person can see: its code, its words, and that it travels whole."""

from __future__ import annotations

import pickle
import re
import traceback

import pytest

from nextcloud_mcp_server.errors import CODES, TokenStorageError
from tests.support import error_texts


def test_every_text_is_the_one_that_was_read() -> None:
    """Each message and remedy of the package stands in tests/errors.txt, word for word."""
    assert error_texts.render() == error_texts.FILE.read_text("utf-8"), (
        "read the new texts, then: python -m tests.support.error_texts"
    )


def test_every_code_is_used_and_every_used_code_is_known() -> None:
    """No code is left over in the contract, and none is made up."""
    used = set(re.findall(r"\[([a-z-]+)\]$", error_texts.render(), re.MULTILINE))
    sources = "".join(p.read_text("utf-8") for p in error_texts.PACKAGE.rglob("*.py"))
    assert used <= CODES.keys()
    assert {code for code in CODES if f'"{code}"' not in sources} == set()


def test_every_text_is_a_line() -> None:
    """A message and its remedy are one line each, and end as a sentence does."""
    for entry in error_texts.render().split("\n\n"):
        for line in entry.splitlines()[1:]:
            assert line.strip()
            assert line == line.rstrip()


#: Commands that are about one database: without -d it is the one of the settings. Not `history`,
#: `lint`, `show` and `migrate`: they are about the revisions of the program.
OF_A_DATABASE = re.compile(
    r"\bdb\s+(?:upgrade|downgrade|stamp|restore|backups?|repair|current|check|doctor|log)\b"
)


def test_a_remedy_names_the_database_that_it_is_about() -> None:
    """Each command of a remedy that is about a database says which: -d stands behind it."""
    remedies = re.findall(r"^    > (.*)$", error_texts.render(), re.MULTILINE)
    commands = 0
    for remedy in remedies:
        _, *typed = OF_A_DATABASE.split(remedy)
        commands += len(typed)
        for rest in typed:
            named = re.search(r" -d [{/]| \{_named\(| \{words\.downgrade_command\(", rest)
            assert named, remedy
    assert commands > 10, "none was found, so none was judged"


def test_only_a_start_that_was_stopped_is_told_to_start_again() -> None:
    """Every other remedy is read by whoever typed a command, too: they try again."""
    entries = re.findall(r"\[([a-z-]+)\]\n.*\n    > (.*)$", error_texts.render(), re.MULTILINE)
    assert {code for code, remedy in entries if "start again" in remedy.lower()} == {"interrupted"}


def test_an_error_arrives_whole_from_another_process() -> None:
    """Code, remedy and exit status survive pickling."""
    error = TokenStorageError("what", code="bad-input", remedy="do", exit_status=3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(again, TokenStorageError)
    assert vars(again) == vars(error)
    assert str(again) == "what"
    assert error.as_dict() == {"code": "bad-input", "message": "what", "remedy": "do"}


def test_a_traceback_ends_in_the_code_and_the_remedy() -> None:
    """Who embeds the store reads in a log what to do; once, wherever the error comes from."""
    error = TokenStorageError("what", code="bad-input", remedy="do")
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own bytes
        told = "".join(traceback.format_exception_only(one))
        assert told.endswith(".TokenStorageError: what\n[bad-input]\nremedy: do\n")


def test_a_code_that_nobody_knows_is_a_mistake() -> None:
    """An error cannot be raised with a code that is not in the contract."""
    with pytest.raises(ValueError, match="made-up"):
        TokenStorageError("what", code="made-up", remedy="do")
