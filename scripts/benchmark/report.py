"""The tables that scripts/bench prints: medians, and ratios to PgBouncer (or what else is compared)."""

from __future__ import annotations

import math
from collections.abc import Mapping

REFERENCES = ("pgbouncer", "not scraped")

# Columns of a result: key, heading, format. A ratio stands beside every number.
COLUMNS: dict[str, list[tuple[str, str, str]]] = {
    "load": [
        ("tps", "TPS", "{:,.0f}"),
        ("cpu_us", "CPU µs/tx", "{:.1f}"),
        ("p50_ms", "p50 ms", "{:.3f}"),
        ("p99_ms", "p99 ms", "{:.3f}"),
    ],
    "login": [("cpu_us", "CPU µs/login", "{:.1f}"), ("per_second", "logins/s", "{:,.0f}")],
    "scrape": [
        ("keeper_ms", "keeper ms", "{:.2f}"),
        ("wall_ms", "wall ms", "{:.1f}"),
        ("kib", "KiB", "{:.1f}"),
        ("core", "% core at 1/s", "{:.2f}"),
    ],
    "handshake": [
        ("per_cpu_second", "per CPU s", "{:,.0f}"),
        ("cpu_us", "CPU µs each", "{:.1f}"),
        ("per_second", "per s", "{:,.0f}"),
    ],
    "bulk": [("mb_per_second", "MB/s", "{:,.0f}"), ("cpu_us", "CPU µs/MB", "{:.0f}")],
    "idle": [("bytes_per_client", "bytes/client", "{:,.0f}"), ("empty_mib", "MiB empty", "{:.1f}")],
}
COLUMNS["scraped"] = COLUMNS["load"]

Numbers = Mapping[str, float]


def table(kind: str, results: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    """Lines of one table: `results[title][pooler][key]`."""
    columns = COLUMNS[kind]
    heads = "".join(f"{head:>13} {'ratio':>6}" for _, head, _ in columns)
    lines = [f"{kind:<16}{'pooler':<12}{heads}"]
    for title, by_pooler in results.items():
        reference = next((by_pooler[name] for name in REFERENCES if name in by_pooler), None)
        for pooler, numbers in by_pooler.items():
            cells = "".join(
                f"{form.format(numbers[key]):>13} {ratio(numbers, reference, key):>6}" for key, _, form in columns
            )
            lines.append(f"{title:<16}{pooler:<12}{cells}")
    return lines


def ratio(numbers: Numbers, reference: Numbers | None, key: str) -> str:
    """This number divided by the reference's; empty where there is none."""
    if reference is None or numbers is reference or not reference[key] or math.isnan(reference[key]):
        return ""
    return f"{numbers[key] / reference[key]:.3f}"
