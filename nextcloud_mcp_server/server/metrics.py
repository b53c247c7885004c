"""What this process counts, and its text for Prometheus.

Counting adds to plain numbers, because it happens in every transaction. The library of Prometheus
is imported by the first request for the text. No label names a user, a client or a token.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server import __version__

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from nextcloud_mcp_server.migrate.journal import Entry
    from nextcloud_mcp_server.migrate.startup import Outcome

#: The events with their outcomes, and what they are called in Prometheus.
EVENTS: Final = {
    "sign_in": ("started", "granted", "refused", "failed"),
    "refresh": ("rotated", "grace", "reused"),
    "nextcloud": ("1xx", "2xx", "3xx", "4xx", "5xx", "none", "waiting"),
}
_NAMES: Final = {
    "sign_in": ("nextcloud_mcp_sign_ins", "Sign-ins with Nextcloud.", "outcome"),
    "refresh": ("nextcloud_mcp_refreshes", "Refresh tokens that a client has sent.", "outcome"),
    "nextcloud": ("nextcloud_mcp_nextcloud_answers", "Answers of Nextcloud.", "status"),
}

#: The upper bounds of the buckets of transactions, in seconds.
BOUNDS: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)


class Metrics:
    """The numbers of one process. They belong to its event loop."""

    def __init__(self) -> None:
        self._counts = {event: dict.fromkeys(names, 0) for event, names in EVENTS.items()}
        self._buckets = {kind: [0] * (len(BOUNDS) + 1) for kind in ("read", "write")}
        self._seconds = {"read": 0.0, "write": 0.0}

    def count(self, event: str, outcome: str) -> None:
        """Count an event of :data:`EVENTS`; another one is an error of the program."""
        self._counts[event][outcome] += 1

    def observe(self, kind: str, seconds: float) -> None:
        """Count a transaction of the store: ``read`` or ``write``."""
        self._buckets[kind][bisect_left(BOUNDS, seconds)] += 1
        self._seconds[kind] += seconds

    def text(self, outcome: Outcome, grants: dict[str, int], migration: Entry | None) -> bytes:
        """Return everything in the text format of Prometheus.

        Args:
            outcome: what the start did.
            grants: how many grants there are in each state.
            migration: the newest entry of the journal.
        """
        # A fifth of a second, and only for an operator who asks.
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
        from prometheus_client import metrics_core as made  # noqa: PLC0415

        info = made.GaugeMetricFamily(
            "nextcloud_mcp_start",
            "The start of this process: 1, with what it did.",
            labels=["action", "before", "revision", "version"],
        )
        revisions = (outcome.before or "", outcome.after)
        info.add_metric([outcome.action.value, *revisions, __version__], 1)
        took = made.GaugeMetricFamily(
            "nextcloud_mcp_start_seconds",
            "How long the start took, with its migrations.",
            value=outcome.seconds,
        )
        states = made.GaugeMetricFamily(
            "nextcloud_mcp_grants", "Grants of MCP clients.", labels=["state"]
        )
        for state, many in grants.items():
            states.add_metric([state], many)
        families: list[Metric] = [info, took, states, *self._counters(), *self._latencies()]
        if migration is not None:
            last = made.GaugeMetricFamily(
                "nextcloud_mcp_last_migration_seconds",
                "How long the newest migration in the journal took.",
                labels=["action", "revision"],
            )
            last.add_metric([migration.action, migration.after or ""], migration.seconds or 0.0)
            families.append(last)
        registry = CollectorRegistry()
        registry.register(_Once(families))
        return generate_latest(registry)

    def _counters(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415

        for event, (name, meaning, label) in _NAMES.items():
            family = CounterMetricFamily(name, meaning, labels=[label])
            for outcome, many in self._counts[event].items():
                family.add_metric([outcome], many)
            yield family

    def _latencies(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415

        family = HistogramMetricFamily(
            "nextcloud_mcp_store_seconds",
            "Transactions of the token store: every write, and one of eight reads.",
            labels=["kind"],
        )
        for kind, buckets in self._buckets.items():
            bounds = (*map(str, BOUNDS), "+Inf")
            sums = list(zip(bounds, map(float, accumulate(buckets)), strict=True))
            family.add_metric([kind], sums, self._seconds[kind])
        yield family


class _Once:
    """A collector of what was computed before."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Return the families."""
        return self._families
