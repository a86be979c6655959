"""The tables that scripts/bench prints: medians, and ratios to PgBouncer (or to what else is the reference)."""

from __future__ import annotations

from collections.abc import Mapping

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

SPREAD = "cpu_us"
"""The column beside whose ratio stands the middle half of all rounds' ratios."""

Numbers = Mapping[str, float]


def table(kind: str, results: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    """Lines of one table: `results[title][pooler][key]`, as `rounds.summarize` gives them."""
    columns = COLUMNS[kind]
    heads = "".join(f"{head:>13} {'ratio':>6}{spread_head(key)}" for key, head, _ in columns)
    lines = [f"{kind:<16}{'pooler':<12}{heads}"]
    for title, by_pooler in results.items():
        for pooler, numbers in by_pooler.items():
            cells = "".join(
                f"{form.format(numbers[key]):>13} {ratio(numbers, key):>6}{spread(numbers, key)}"
                for key, _, form in columns
            )
            lines.append(f"{title:<16}{pooler:<12}{cells}")
    return lines


def ratio(numbers: Numbers, key: str) -> str:
    """To the reference; empty where there is none."""
    return f"{numbers[f'{key}_ratio']:.3f}" if f"{key}_ratio" in numbers else ""


def spread_head(key: str) -> str:
    return f" {'middle half':>11}" if key == SPREAD else ""


def spread(numbers: Numbers, key: str) -> str:
    """From the lower quartile to the upper one."""
    if key != SPREAD:
        return ""
    is_there = f"{key}_ratio" in numbers
    text = f"{numbers[f'{key}_low']:.2f}-{numbers[f'{key}_high']:.2f}" if is_there else ""
    return f" {text:>11}"
