"""The benchmarks run and report an exceeded limit. Nothing here depends on the clock."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pytest

from tests.bench import fixtures, large, table
from tests.bench.__main__ import AREAS, main, report
from tests.bench.harness import Pairs, Row, compare, fact
from tests.bench.place import TINY, Place

#: The areas that need more than this project; the sqlite3 command line is not everywhere.
_OPTIONAL = {"large"} if shutil.which("sqlite3") is None else set()


def measured(base: float, ours: float, limit: float, seconds: float | None = None) -> Row:
    """Return a figure with equal rounds."""
    return Pairs((base,) * 3, (ours,) * 3).judged("it", "that", limit, seconds)


def test_every_area_runs_on_a_tiny_scale(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each benchmark runs and prints its figures as JSON."""
    areas = [area for area in AREAS if area not in _OPTIONAL]
    assert main([*areas, "--json", "--folder", str(tmp_path)], TINY) in {0, 1}
    figures = json.loads(capsys.readouterr().out)
    assert {figure["holds"] for figure in figures} <= {True, False, None}
    assert len({figure["what"] for figure in figures}) == len(figures) > 20
    alone = next(f for f in figures if f["what"].startswith("a failing unit of work"))
    assert alone["holds"] is True
    assert list(tmp_path.iterdir()) == []


def test_the_setup_of_a_fixture_is_measured(tmp_path: Path) -> None:
    """Each setup of token_db after the first is measured with a copy of the same file."""
    pairs = fixtures.copied(Place(tmp_path, replace(TINY, calls=3)))
    assert len(pairs.ours) == len(pairs.base) == 3
    assert min(*pairs.ours, *pairs.base) > 0


def test_an_exceeded_limit_is_reported_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """A ratio or a time over its limit and a wrong fact are reported, with status 1."""
    good = [
        measured(1.0, 1.5, 1.5),
        measured(1e-6, 2e-6, 5, 0.002),
        fact("f", "0", "0", holds=True),
    ]
    assert report(good) == 0
    assert capsys.readouterr().err == ""
    for bad in (
        measured(1.0, 1.6, 1.5),
        measured(1.0, 1.0, 5, 0.5),
        fact("it", "1", "0", holds=False),
    ):
        assert report([*good, bad]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("missed: it: ")
        assert "NO" in captured.out


def test_the_two_take_turns() -> None:
    """Each runs first in every second round, and warm-up rounds do not count."""
    order: list[str] = []
    seconds = cycle((1.0, 2.0))

    def clock(name: str) -> float:
        order.append(name)
        return next(seconds)

    pairs = compare(lambda: clock("base"), lambda: clock("ours"), 2, warm=1)
    assert order == ["base", "ours", "ours", "base", "base", "ours"]
    assert pairs == Pairs((2.0, 1.0), (1.0, 2.0))


def test_one_slow_round_does_not_count() -> None:
    """The result is the median of the ratios, so that one slow round does not change it."""
    row = Pairs((1.0, 1.0, 9.0, 1.0, 1.0), (2.0, 2.0, 2.0, 90.0, 2.0)).judged("it", "that", 2)
    assert (row.ratio, row.spread, row.holds) == (2.0, 0.0, True)


def test_the_figures_replace_those_of_before(tmp_path: Path) -> None:
    """The text around the marked block stays, and a page without a block is an error."""
    page = tmp_path / "page.md"
    page.write_text(f"# Speed\n\n{table.BEGIN}\nold\n{table.END}\n\nThe end.\n", "utf-8")
    for _ in range(2):
        table.write(page, [measured(1.0, 1.6, 1.5)])
    text = page.read_text("utf-8")
    assert text.startswith(f"# Speed\n\n{table.BEGIN}\n\n| what | ")
    assert text.endswith(f"\n\n{table.END}\n\nThe end.\n")
    assert text.count("| it | that | 1 s | 1.6 s | 1.60x ± 0.00 | at most 1.5x | NO |") == 1
    page.write_text("no marks\n", "utf-8")
    with pytest.raises(ValueError, match="no place for the figures"):
        table.write(page, [])


@pytest.mark.skipif(bool(_OPTIONAL), reason="the sqlite3 command line is not installed")
def test_a_statement_that_fails_is_no_time(tmp_path: Path) -> None:
    """An error of the command line is raised and not measured."""
    with pytest.raises(Exception, match="sqlite3"):
        large.by_command_line(tmp_path / "t.db", ["CREATE TABLE t (a)", "NOT SQL"])
