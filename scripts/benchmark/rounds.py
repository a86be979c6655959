"""What interleaved rounds come to: medians, and ratios of runs that were neighbours.

The speed of a machine drifts, by half and more where it is a virtual one. What one pooler cost in a round is divided by
what the reference cost in the same round, a moment later; of these ratios the median counts, and the middle half of
them says how much it is worth.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

REFERENCES = ("pgbouncer", "not scraped")

Numbers = dict[str, float]


def summarize(found: Mapping[str, Sequence[Any]]) -> dict[str, Numbers]:
    """By pooler: each column of its samples (dataclasses of numbers) as the median of all rounds, and against the
    reference, if there is one, `<column>_ratio` with the quartiles `<column>_low` and `<column>_high`."""
    columns = {name: _columns(samples) for name, samples in found.items()}
    reference = next((name for name in REFERENCES if name in found), None)
    summary: dict[str, Numbers] = {}
    for name, values in columns.items():
        numbers = summary[name] = {key: statistics.median(column) for key, column in values.items()}
        if reference is not None and name != reference:
            for key, column in values.items():
                numbers.update(_ratios(key, column, columns[reference][key]))
    return summary


def _columns(samples: Sequence[Any]) -> dict[str, list[float]]:
    rows = [asdict(sample) for sample in samples]
    return {key: [float(row[key]) for row in rows] for key in rows[0]}


def _ratios(key: str, column: Sequence[float], reference: Sequence[float]) -> Numbers:
    """Empty when a round of either says nothing."""
    pairs = list(zip(column, reference, strict=True))
    if not all(below and math.isfinite(above / below) for above, below in pairs):
        return {}
    ratios = [above / below for above, below in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {f"{key}_ratio": middle, f"{key}_low": low, f"{key}_high": high}
