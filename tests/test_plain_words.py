"""Docstrings, messages and documents use the plain words of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

#: Words to avoid, as regular expressions, and what to write instead.
AVOIDED: Final = {
    r"(un|re)?seal(s|ed|ing)?": "encrypt or decrypt",
    r"at hand": "available, given",
    r"anew": "again",
    r"mend(s|ed|ing|able)?": "repair, fix",
    r"who(m)?ever": "the caller, a user who",
    r"owe(s|d)?|owing": "pending, needs",
    r"half-(made|done|written)": "incomplete",
    r"nobody (can tell|knows)": "cannot be determined, is unknown",
    r"nobody to ask": "the input is not interactive",
    r"verdicts?": "result",
    r"(an|the|this|that|its|no|each|every|one) offers?": "preview",
    r"the answer (is|was)": "the result is",
    r"vet(s|ted|ting)": "check",
    r"listeners?": "progress callback",
    r"(a|the|each|every|one|no) looks?(?! like)": "inspection",
    r"ail(s|ed|ing|ments?)?": "problem",
    r"believ(e|es|ed)": "trust, accept",
    r"hear(s|d)?": "receives",
    r"(speak|speaks|spoke|spoken) (of|for)": "refers to, is about",
    r"deny|denies": "does not match, refuses",
    r"honest(ly)?": "correct",
    r"lest|whence|albeit|thither|henceforth|amiss": "a modern word",
    r"strangers?": "other application, unknown object",
    r"told by its type": "of type",
}

#: Places that keep a word: its file, the word and the reason.
ALLOWED: Final[dict[tuple[str, str], str]] = {}

_PATTERNS: Final = {
    re.compile(rf"\b(?:{word})\b", re.IGNORECASE): plain for word, plain in AVOIDED.items()
}
_CODE: Final = re.compile(r"^( *)```.*?^\1```$|``[^`\n]*``|`[^`\n]*`", re.MULTILINE | re.DOTALL)

Text = tuple[int, str]


def _docstrings(tree: ast.AST) -> Iterator[Text]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield node.body[0].lineno, text


def _strings(tree: ast.AST) -> Iterator[Text]:
    """Yield each string with a space in it: docstrings, messages and the texts of ``--help``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value


def _texts(path: Path) -> Iterator[Text]:
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        tree = ast.parse(text)
        return _docstrings(tree) if "tests" in path.parts else _strings(tree)
    if path.name == "CHANGELOG.md":
        # What was released stays as it was.
        text = "\n## ".join(text.split("\n## ")[:2])
    return iter([(1, text)])


def avoided(path: Path) -> list[str]:
    """Return each avoided word in a file, with its line and what to write instead."""
    name = path.relative_to(ROOT).as_posix()
    problems = []
    for line, raw in _texts(path):
        # Code is blanked, so that the lines keep their numbers.
        text = _CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), raw)
        for pattern, plain in _PATTERNS.items():
            for match in pattern.finditer(text):
                if (name, match[0].lower()) not in ALLOWED:
                    number = line + text.count("\n", 0, match.start())
                    problems.append(f"{name}:{number}: {match[0]!r}: write: {plain}")
    return problems


def _rooms() -> Iterator[tuple[str, list[Path]]]:
    for folder in ("nextcloud_mcp_server", "tests"):
        base = ROOT / folder
        yield folder, [path for path in base.glob("*.py") if path.name != Path(__file__).name]
        for room in sorted(path for path in base.iterdir() if path.is_dir()):
            if files := sorted(room.rglob("*.py")):
                yield f"{folder}/{room.name}", files
    yield "alembic", sorted((ROOT / "alembic").rglob("*.py"))
    docs = ROOT / "docs"
    yield "docs", [*sorted(docs.rglob("*.md")), *sorted(docs.rglob("*.py"))]
    examples = sorted((ROOT / "examples").rglob("*.py"))
    yield "root", [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("*.py")), *examples]


@pytest.mark.parametrize("files", [pytest.param(files, id=room) for room, files in _rooms()])
def test_the_words_are_plain(files: list[Path]) -> None:
    """No text of a room has a word that a newcomer must look up."""
    problems = [problem for path in files for problem in avoided(path)]
    assert problems == [], f"{len(problems)} words:\n" + "\n".join(problems)


def test_an_avoided_word_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A docstring and a message are checked with their inflections; code and comments are not."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "module.py"
    path.write_text('"""Write it Anew, ``anew``."""\n# anew\nX = "It was mended."\n', "utf-8")
    assert avoided(path) == [
        "module.py:1: 'Anew': write: again",
        "module.py:3: 'mended': write: repair, fix",
    ]


def test_every_exception_has_a_reason_and_is_needed() -> None:
    """An exception names a file that has the word, and why."""
    for (name, word), reason in ALLOWED.items():
        assert reason
        assert word in (ROOT / name).read_text("utf-8").lower()
