"""The errors: their codes, their texts, how they are printed, pickling and tracebacks."""

from __future__ import annotations

import pickle
import re
import traceback

import pytest

from nextcloud_mcp_server.errors import (
    CODES,
    TokenStorageError,
    describe_error,
    printable,
    traceback_lines,
)
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


#: How a text ends a command: with a bracket, a semicolon, a dash, a quotation mark or nothing.
ENDED = r"(?:\{[^{}]*\}|'[^']*'|(?! - |[;()`'\n]).)*"

#: The programs that a text tells to run.
COMMAND = re.compile(
    r"(?:nextcloud-mcp-server (?:db|keys) |uv run |pip install |python3? -|mv |chown |chmod [0-9]"
    rf"|psql |pg_restore -|sqlite3 |find /|docker run ){ENDED}"
)

#: Commands that use one database: without -d, that of the settings.
OF_A_DATABASE = re.compile(
    r"nextcloud-mcp-server (?:db (?!lint|migrate|show)|keys (?!generate))[a-z]"
    rf"{ENDED}(?=$|[ ;()`'\n])"
)

#: How a command names its database: as its own option, by a path, or by an argument of a log line.
NAMED = re.compile(r" -d (?:[{/]|NAME|PATH)|\{[^{}]*option\}|\{command\}| %s|\{place\}")

#: Texts of examples, and of a place that is not known.
WITHOUT_PLACE = {"cli.root", "cli.mistakes"}


def texts() -> list[tuple[str, str]]:
    """Return every text that can have a command: those of the sources, and of the tables."""
    filled = [("filled in", line) for text in error_texts.filled_in() for line in text.split("\n")]
    return [*error_texts.strings(), *filled]


def test_a_command_in_a_text_names_its_database() -> None:
    """Each command that uses a database names it with -d, or with its own option."""
    found = [(name, one[0]) for name, text in texts() for one in OF_A_DATABASE.finditer(text)]
    nameless = {
        (name, command)
        for name, command in found
        if not NAMED.search(command) and name not in WITHOUT_PLACE
    }
    # Without a database there, the error is about the program's own revisions.
    history = ("migrate.alembic_commands", "nextcloud-mcp-server db history")
    assert nameless == {history}
    assert len(found) > 50, "no command was found"


def test_no_punctuation_follows_a_command() -> None:
    """Copied to the end of the sentence, a command has no full stop and no comma of it."""
    followed = re.compile(r"[.,](?=\s|$)")
    ends = re.compile(
        r"\{(?:[^{}]*(?:remedy|command|for_shell)[^{}]*|(?:[\w.]*\.)?option)\}[.,](?=\s|$)"
    )
    quoted = re.compile(r"\{[^{}]*\}|'[^']*'|\"[^\"]*\"")
    wrong = {
        (name, command[0])
        for name, text in texts()
        for command in [*COMMAND.finditer(text), *ends.finditer(text)]
        if followed.search(quoted.sub("x", command[0]))
    }
    assert wrong == set()


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


def test_an_error_is_its_message_and_remedy() -> None:
    """The message with its code and the remedy are a line each, with escapes."""
    error = TokenStorageError("No\nway.", code="foreign", remedy="Go\x1b[2J on.")
    assert describe_error(error) == ("error: No\\nway. [foreign]", "remedy: Go\\x1b[2J on.")


def test_a_traceback_has_no_remedy() -> None:
    """It has the code and other notes, and control characters are escaped."""
    error = TokenStorageError("No\x1b[2J way.", code="foreign", remedy="Go on.")
    error.add_note("seed 4")
    first, *_, message, code, note = traceback_lines(_raised(error))
    assert first == "Traceback (most recent call last):"
    assert message.endswith(".TokenStorageError: No\\x1b[2J way.")
    assert (code, note) == ("[foreign]", "seed 4")
    assert traceback_lines(_raised(ValueError("odd")))[-1] == "ValueError: odd"


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError(""), "ValueError"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (ValueError("x" * 500), "ValueError: " + "x" * 200 + "..."),
        (OSError(5, "oops", "/d\n"), "OSError: [Errno 5] oops: '/d\\n'"),
        (ValueError("key " + "A" * 43 + "= is odd"), "ValueError: key *** is odd"),
        (ValueError("token gAAAAAB" + "b" * 60), "ValueError: token ***"),
        (ValueError("at sqlite://me:pa@ss@host/x"), "ValueError: at sqlite://***host/x"),
    ],
)
def test_any_other_error_is_one_line(error: Exception, expected: str) -> None:
    """An error without a code is its type and first line, without possible secrets."""
    first, remedy = describe_error(error)
    assert first == f"unexpected error: {expected.replace(chr(10), chr(92) + 'n')}"
    assert "--debug" in remedy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grüße 🔑", "grüße 🔑"),
        ("a\tb\r\n", "a\\tb\\r\\n"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("\udce9", "\\udce9"),
        ("\u202egnp", "\\u202egnp"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    """Control characters, direction marks and undecodable bytes are printed as escapes."""
    assert printable(text) == expected
