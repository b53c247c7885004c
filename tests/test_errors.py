"""The errors: their codes, their texts, pickling and tracebacks."""

from __future__ import annotations

import pickle
import re
import traceback

import pytest

from nextcloud_mcp_server.errors import CODES, TokenStorageError
from tests.support import error_texts


def test_every_text_is_in_the_reviewed_file() -> None:
    """tests/errors.txt contains each message and remedy of the package."""
    assert error_texts.render() == error_texts.FILE.read_text("utf-8"), (
        "review the new texts, then: python -m tests.support.error_texts"
    )


def test_every_code_is_used_and_every_used_code_is_known() -> None:
    """Every code of CODES is used, and no other."""
    used = set(re.findall(r"\[([a-z-]+)\]$", error_texts.render(), re.MULTILINE))
    sources = "".join(p.read_text("utf-8") for p in error_texts.PACKAGE.rglob("*.py"))
    assert used <= CODES.keys()
    assert {code for code in CODES if f'"{code}"' not in sources} == set()


def test_every_text_is_one_line() -> None:
    """A message and its remedy have no spaces at their ends."""
    for entry in error_texts.render().split("\n\n"):
        for line in entry.splitlines()[1:]:
            assert line.strip()
            assert line == line.rstrip()


#: Commands that use one database: without -d, that of the settings.
OF_A_DATABASE = re.compile(
    r"\bdb\s+(?:upgrade|downgrade|stamp|restore|backups?|repair|current|check|doctor|log)\b"
)


def test_a_command_in_a_remedy_names_its_database() -> None:
    """Each command of a remedy that uses a database names it with -d, or with its own option."""
    remedies = re.findall(r"^    > (.*)$", error_texts.render(), re.MULTILINE)
    commands = 0
    for remedy in remedies:
        _, *typed = OF_A_DATABASE.split(remedy)
        commands += len(typed)
        for rest in typed:
            named = re.search(r" -d [{/]| \{(database|place|inspection\.database)\.option\}", rest)
            assert named, remedy
    assert commands > 10, "no command was found"


def test_only_a_stopped_start_has_the_remedy_start_again() -> None:
    """The other remedies are also printed by commands, where "start again" makes no sense."""
    entries = re.findall(r"\[([a-z-]+)\]\n.*\n    > (.*)$", error_texts.render(), re.MULTILINE)
    assert {code for code, remedy in entries if "start again" in remedy.lower()} == {"interrupted"}


def test_an_error_can_be_pickled() -> None:
    """Code, remedy and exit status survive pickling."""
    error = TokenStorageError("what", code="bad-input", remedy="do", exit_status=3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(again, TokenStorageError)
    assert vars(again) == vars(error)
    assert str(again) == "what"
    assert error.as_dict() == {"code": "bad-input", "message": "what", "remedy": "do"}


def test_a_traceback_ends_in_the_code_and_the_remedy() -> None:
    """A log of a service that embeds the store shows the remedy once, also after pickling."""
    error = TokenStorageError("what", code="bad-input", remedy="do")
    for one in (error, pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own bytes
        lines = "".join(traceback.format_exception_only(one))
        assert lines.endswith(".TokenStorageError: what\n[bad-input]\nremedy: do\n")


def test_an_unknown_code_is_refused() -> None:
    """An error needs a code of CODES."""
    with pytest.raises(ValueError, match="made-up"):
        TokenStorageError("what", code="made-up", remedy="do")
