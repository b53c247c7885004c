"""Run the benchmarks: ``python -m tests.bench``, or ``uvx nox -s bench``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from tests.bench import (
    commands,
    fixtures,
    growth,
    imports,
    large,
    load,
    pool,
    scale,
    server,
    starts,
    table,
)
from tests.bench.harness import Row
from tests.bench.place import FULL, Place, Scale

AREAS: Final[dict[str, Callable[[Place], Iterator[Row]]]] = {
    "commands": commands.rows,
    "starts": starts.rows,
    "pool": pool.rows,
    "fixtures": fixtures.rows,
    "imports": imports.rows,
    "growth": growth.rows,
    "large": large.rows,
    "server": server.rows,
    "scale": scale.rows,
    "load": load.rows,
}

CHECKOUT: Final = Path(__file__).parents[2]
DOCUMENT: Final = CHECKOUT / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None, amount: Scale = FULL) -> int:
    """Measure and print the table; return 1 if a limit is exceeded."""
    options = _options(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.folder) as folder:
        place = Place(Path(folder), amount)
        for area in options.areas or AREAS:
            for row in AREAS[area](place):
                rows.append(row)
                click.echo(f"{row.what}: {' '.join(table.cells(row)[2:])}", err=True)
    return report(rows, as_json=options.json, document=DOCUMENT if options.write else None)


def report(rows: Sequence[Row], *, as_json: bool = False, document: Path | None = None) -> int:
    """Print the figures and the exceeded limits; return the exit status."""
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        click.echo(table.plain(rows))
        click.echo(table.where())
    if document is not None:
        table.write(document, rows)
    missed = table.missed(rows)
    for line in missed:
        click.echo(line, err=True)
    return 1 if missed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=__doc__)
    parser.add_argument("areas", nargs="*", choices=[*AREAS, []], help="what to measure")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--write", action="store_true", help=f"put them into {DOCUMENT.name}")
    parser.add_argument(
        "--folder",
        type=Path,
        default=CHECKOUT,
        help="where the databases lie while they are measured: on a disk, not in memory",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
