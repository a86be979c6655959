"""What a run found, as text: actions, faults and what they explain, wrong answers, leaks."""

from __future__ import annotations

from tests.torture.client import Shared

SHOWN = 10  # findings printed in full


def describe(shared: Shared, leaks: list[str], seconds: float) -> str:
    """The whole report."""
    performed = sum(shared.performed.values())
    ledger = shared.ledger
    lines = [
        f"{performed} actions, {shared.messages} messages, {shared.connections} connections in {seconds:.0f} s",
        "",
        *_table("action", ["performed"], {name: [count] for name, count in shared.performed.most_common()}),
        "",
        *_table(
            "fault",
            ["injected", "errors explained"],
            {
                cause: [ledger.injected[cause], ledger.explained[cause]]
                for cause in sorted({*ledger.injected, *ledger.explained})
            },
        ),
        "",
        *_findings("wrong answers", shared.wrong),
        *_findings("unexplained errors", shared.unexplained),
        *_findings("overdrawn causes", ledger.overdrawn()),
        *_findings("leaks", leaks),
    ]
    return "\n".join(lines)


def _table(head: str, columns: list[str], rows: dict[str, list[int]]) -> list[str]:
    width = max([len(head), *map(len, rows)]) + 2
    lines = [head.ljust(width) + "".join(column.rjust(18) for column in columns)]
    lines += [name.ljust(width) + "".join(str(value).rjust(18) for value in values) for name, values in rows.items()]
    return lines


def _findings(title: str, findings: list[str]) -> list[str]:
    lines = [f"{title}: {len(findings)}"]
    lines += [f"  - {finding}" for finding in findings[:SHOWN]]
    if len(findings) > SHOWN:
        lines.append(f"  … and {len(findings) - SHOWN} more")
    return lines
