"""The same figures with more rows in the table."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.commands import current
from tests.bench.harness import Row
from tests.bench.place import Place
from tests.bench.pool import both
from tests.bench.starts import at_head, each, start_clock


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures that must not depend on the number of rows."""
    few = place.scale.rows[0]
    for number in place.scale.rows:
        with both(place, number) as pair:
            named = f"with {number:,} rows"
            yield current(place, number).judged(f"`db current` {named}", "sqlite3 alone", 3)
            yield at_head(place, number).judged(f"`initialize()` {named}", "sqlite3 alone", 5)
            yield pair.get().judged(f"get, one task, {named}", "one thread", 1.5)
            yield pair.put().judged(f"store, one task, {named}", "one thread", 1.5)
    for number in place.scale.rows[1:]:
        with start_clock(place, few) as small, start_clock(place, number) as large:
            pairs = each(place, small, large)
        yield pairs.judged(
            f"`initialize()` with {number:,} rows, not with {few:,}", f"with {few:,} rows", 1.2
        )
