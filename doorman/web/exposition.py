"""Families of samples, and Prometheus's text of them (format version 0.0.4).

A family is filled once and can be had in two ways: as prometheus-client's `Metric`, which its registry and its encoders
understand (collector.py), and as text, which is what is scraped. The second way is ours because prometheus-client
escapes and formats all labels of each sample anew: 0.3 s of processor time for the 76,000 samples of a thousand pools,
against 0.05 s here, reading the table included (tests/unit/web/test_scrape.py, which also compares the two).
Source: "Exposition formats", Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from doorman.web.families import FAMILIES

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
Number = int | float
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Labels(NamedTuple):
    """Labels of a sample by name, and as the text has them."""

    pairs: Mapping[str, str]
    text: str


def label(name: str, value: str) -> Labels:
    """One label."""
    return Labels({name: value}, f'{name}="{value.translate(_ESCAPES)}"')


def joined(*labels: Labels) -> Labels:
    """All of them together."""
    pairs = {name: value for one in labels for name, value in one.pairs.items()}
    return Labels(pairs, ",".join(one.text for one in labels))


class Block(Protocol):
    """Samples of one family that were added together."""

    def lines(self, name: str) -> Iterable[str]:
        """As text, without the line's end."""

    def samples(self, name: str) -> Iterator[Sample]:
        """For prometheus-client."""


class Exposition:
    """Collects samples. A family without any is left out; families come sorted by name."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[Block]] = {}

    def add(self, name: str, value: Number, *labels: Labels) -> None:
        """One sample."""
        self._put(name, _Each([joined(*labels)], [value]))

    def add_each(self, name: str, labels: Sequence[Labels], values: Sequence[Number]) -> None:
        """A sample for each of `labels`."""
        if labels:
            self._put(name, _Each(labels, values))

    def add_by(
        self, name: str, key: str, choices: Sequence[str], labels: Sequence[Labels], rows: Sequence[Sequence[Number]]
    ) -> None:
        """A sample for each of `labels` and each of `choices` (values of the label `key`)."""
        if labels:
            self._put(name, _By([label(key, choice) for choice in choices], labels, rows))

    def add_histograms(
        self,
        name: str,
        bounds: Sequence[float],
        labels: Sequence[Labels],
        rows: Sequence[tuple[Sequence[int], int, float]],
    ) -> None:
        """For each of `labels`: cumulative counts up to each bound, the count of all, the sum in seconds."""
        if labels:
            self._put(name, _Histograms([label("le", f"{bound:g}") for bound in bounds], labels, rows))

    def _put(self, name: str, block: Block) -> None:
        self._blocks.setdefault(name, []).append(block)

    def text(self) -> str:
        """All of it."""
        pieces = []
        for name, blocks in sorted(self._blocks.items()):
            family = FAMILIES[name]
            pieces.append(f"# HELP {name} {family.help_text}\n# TYPE {name} {family.kind}")
            for block in blocks:
                pieces.extend(block.lines(name))
        return "\n".join(pieces) + "\n" if pieces else ""

    def metrics(self) -> Iterator[Metric]:
        """All of it, for prometheus-client."""
        for name, blocks in sorted(self._blocks.items()):
            metric = FAMILIES[name].metric()
            metric.samples = [sample for block in blocks for sample in block.samples(name)]
            yield metric


class _Each(NamedTuple):
    labels: Sequence[Labels]
    values: Sequence[Number]

    def lines(self, name: str) -> Iterable[str]:
        pairs = zip(self.labels, self.values, strict=True)
        return [f"{name}{{{one.text}}} {value}" if one.text else f"{name} {value}" for one, value in pairs]

    def samples(self, name: str) -> Iterator[Sample]:
        for one, value in zip(self.labels, self.values, strict=True):
            yield Sample(name, dict(one.pairs), value)


class _By(NamedTuple):
    choices: Sequence[Labels]
    labels: Sequence[Labels]
    rows: Sequence[Sequence[Number]]

    def lines(self, name: str) -> Iterable[str]:
        lines: list[str] = []
        tails = [choice.text for choice in self.choices]
        for one, row in zip(self.labels, self.rows, strict=True):
            lines.extend([f"{name}{{{one.text},{tail}}} {value}" for tail, value in zip(tails, row, strict=True)])
        return lines

    def samples(self, name: str) -> Iterator[Sample]:
        for one, row in zip(self.labels, self.rows, strict=True):
            for choice, value in zip(self.choices, row, strict=True):
                yield Sample(name, {**one.pairs, **choice.pairs}, value)


class _Histograms(NamedTuple):
    bounds: Sequence[Labels]
    labels: Sequence[Labels]
    rows: Sequence[tuple[Sequence[int], int, float]]

    def lines(self, name: str) -> Iterable[str]:
        lines: list[str] = []
        tails = [bound.text for bound in self.bounds]
        for (_, one), (counts, count, total) in zip(self.labels, self.rows, strict=True):
            start = f"{name}_bucket{{{one},"
            lines.extend([f"{start}{tail}}} {value}" for tail, value in zip(tails, counts, strict=True)])
            lines.append(f'{start}le="+Inf"}} {count}\n{name}_sum{{{one}}} {total}\n{name}_count{{{one}}} {count}')
        return lines

    def samples(self, name: str) -> Iterator[Sample]:
        bounds = [*self.bounds, label("le", "+Inf")]
        for one, (counts, count, total) in zip(self.labels, self.rows, strict=True):
            for bound, value in zip(bounds, [*counts, count], strict=True):
                yield Sample(f"{name}_bucket", {**one.pairs, **bound.pairs}, value)
            yield Sample(f"{name}_sum", dict(one.pairs), total)
            yield Sample(f"{name}_count", dict(one.pairs), count)
