"""Declared metrics of one registry, by kind and name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

PREFIX = "darkroom_"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Declared: TypeAlias = Mapping[str, tuple[str, Sequence[str]]]
"""Description and labels of a metric, by its name without ``PREFIX`` and ``_total``."""
DeclaredHistograms: TypeAlias = Mapping[str, tuple[str, Sequence[str], Sequence[float]]]
"""The same with the buckets' upper bounds, in the unit of the name."""
Labelled: TypeAlias = Mapping[Any, float]
"""Values by their labels' values, which are tuples."""


class _Labelled(MetricWrapperBase):
    """Metric that finds its values by labels without a lock and without making them texts, if they
    are texts and have values already. An image asks thirty times."""

    def labels(self, *labelvalues: object, **labelkwargs: object) -> Self:
        child = self._metrics.get(cast("tuple[str, ...]", labelvalues))
        return super().labels(*labelvalues, **labelkwargs) if child is None else child


class _Counter(_Labelled, Counter):
    pass


class _Gauge(_Labelled, Gauge):
    pass


class _Histogram(_Labelled, Histogram):
    pass


class Families:
    """Metrics of one area, made from their declarations."""

    def __init__(
        self,
        registry: CollectorRegistry,
        counters: Declared = {},  # noqa: B006 - never changed
        gauges: Declared = {},  # noqa: B006
        histograms: DeclaredHistograms = {},  # noqa: B006
    ) -> None:
        self._known: dict[str, set[tuple[str, ...]]] = {}  # combinations of labels, by gauge
        # A counter with labels is exported from its first `labels(…)` on. Where an alert looks at
        # its increase, this comes before the first `inc()`: the increase from nothing to 1 is 0.
        self.counters = {
            name: _Counter(f"{PREFIX}{name}", text, labels, registry=registry)
            for name, (text, labels) in counters.items()
        }
        self.gauges = {
            name: _Gauge(f"{PREFIX}{name}", text, labels, registry=registry)
            for name, (text, labels) in gauges.items()
        }
        self.histograms = {
            name: _Histogram(f"{PREFIX}{name}", text, labels, buckets=buckets, registry=registry)
            for name, (text, labels, buckets) in histograms.items()
        }

    def all(self) -> Sequence[MetricWrapperBase]:
        return [*self.counters.values(), *self.gauges.values(), *self.histograms.values()]

    def only(self, gauge: str, values: Labelled) -> None:
        """Set a gauge by its labels' values. Without any value it is not exported."""
        family = self.gauges[gauge]
        if not values:
            family.clear()
        for labels, value in values.items():
            family.labels(*labels).set(value)

    def exactly(self, gauge: str, values: Labelled) -> None:
        """Set a gauge by its labels' values. A combination that is not named is not exported."""
        family = self.gauges[gauge]
        for labels in self._known.get(gauge, set()) - values.keys():
            family.remove(*labels)
        self._known[gauge] = set(values)
        for labels, value in values.items():
            family.labels(*labels).set(value)

    def expect(self, gauge: str, *labels: str) -> None:
        """Export a combination of labels that ``replace`` may name later, with 0."""
        self._known.setdefault(gauge, set()).add(labels)
        self.gauges[gauge].labels(*labels).set(0.0)

    def replace(self, gauge: str, values: Labelled) -> None:
        """Set a gauge by its labels' values. A combination that is not named any more has 0."""
        family = self.gauges[gauge]
        known = self._known.setdefault(gauge, set())
        known.update(values)
        for labels in known:
            family.labels(*labels).set(values.get(labels, 0.0))
