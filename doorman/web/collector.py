"""The pooler as prometheus-client sees it: one collector in a registry of its own (no `process_*` and the like).

Prometheus is served the text that exposition.py writes of the same families. prometheus-client's encoders serve who
takes nothing but OpenMetrics: that format has no room for a counter `x_total` beside a gauge `x`, which the
reference has for the sake of old dashboards, so those gauges are left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from doorman.web.exposition import CONTENT_TYPE
from doorman.web.families import FAMILIES
from doorman.web.figures import Figures
from doorman.web.metrics import fill

OPENMETRICS: Final = "application/openmetrics-text"
TAKES_TEXT: Final = ("text/plain", "text/*", "*/*")


class PoolerCollector(Collector):
    """Reads the table whenever it is asked. `figures` says what is known beside it."""

    def __init__(self, figures: Callable[[], Figures], *, left_out: frozenset[str] = frozenset()) -> None:
        self._figures = figures
        self._left_out = left_out

    def describe(self) -> Iterable[Metric]:
        """Families without samples: registration must not read the table."""
        return [family.metric() for family in FAMILIES.values() if family.name not in self._left_out]

    def collect(self) -> Iterable[Metric]:
        """Families with their samples."""
        for metric in fill(self._figures()).metrics():
            if metric.type == "counter" or metric.name not in self._left_out:
                yield metric


def make_registry(figures: Callable[[], Figures], *, left_out: frozenset[str] = frozenset()) -> CollectorRegistry:
    """A registry of this pooler and nothing else."""
    registry = CollectorRegistry()
    registry.register(PoolerCollector(figures, left_out=left_out))
    return registry


def shadowed() -> frozenset[str]:
    """Gauges beside which there is a counter of the same beginning."""
    return frozenset(name for name in FAMILIES if f"{name}_total" in FAMILIES)


def encode(accept: str, figures: Callable[[], Figures]) -> tuple[bytes, str]:
    """Body and content type for who sends this Accept header. Text goes to all who take it, Prometheus among them:
    it is written in a fifth of the time."""
    if OPENMETRICS not in accept or any(kind in accept for kind in TAKES_TEXT):
        return fill(figures()).text().encode("utf-8", "replace"), CONTENT_TYPE
    encoder, content_type = choose_encoder(accept)
    return encoder(make_registry(figures, left_out=shadowed())), content_type
