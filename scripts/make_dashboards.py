"""Makes packaging/ (Grafana, Prometheus) and docs/metrics.md from the list of metrics in doorman/web/families.py.

Run as `python -m scripts.make_dashboards`. A panel or rule that speaks of a metric that is not in the list ends it with
an error; a test compares what is in packaging/ with what this makes, and with a running pooler.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from doorman.web.families import FAMILIES
from scripts.alert_rules import ALERTS, RECORDED, Alert
from scripts.panels import ROWS, Panel

PACKAGING = Path(__file__).resolve().parents[1] / "packaging"
DASHBOARD = PACKAGING / "grafana" / "pg_doorman.json"
RULES = PACKAGING / "prometheus" / "pg_doorman.rules.yml"
PAGE_HEAD = Path(__file__).with_name("metrics_page.md")
PAGE = PACKAGING.parent / "docs" / "metrics.md"
METRIC = re.compile(r"\bpg_doorman_\w+")
RECORD = re.compile(r"\bpg_doorman:([\w:]+)")


def check(expression: str) -> str:
    """The expression; raises ValueError when it speaks of a metric that is not in the list."""
    for name in METRIC.findall(expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if name not in FAMILIES and (base not in FAMILIES or FAMILIES[base].kind != "histogram"):
            raise ValueError(f"{name} is not in the list of metrics: {expression}")
    for name in RECORD.findall(expression):
        if name not in RECORDED:
            raise ValueError(f"pg_doorman:{name} is not in the list of recording rules: {expression}")
    return expression


def make_dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    return {
        "title": "pg_doorman",
        "uid": "pg-doorman",
        "tags": ["postgresql", "pg_doorman"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(make_variables())},
        "panels": list(make_panels()),
    }


def make_variables() -> Iterator[dict[str, Any]]:
    """The data source, and what panels are filtered by."""
    yield {"name": "datasource", "type": "datasource", "query": "prometheus"}
    sources = {"instance": "pg_doorman_build_info", "user": "pg_doorman_pool_size", "database": "pg_doorman_pool_size"}
    for name, source in sources.items():
        yield {
            "name": name,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": f"label_values({check(source)}, {name})",
            "includeAll": True,
            "multi": True,
            "refresh": 2,
            "current": {"text": "All", "value": "$__all"},
        }


def make_panels() -> Iterator[dict[str, Any]]:
    """A heading for each row, three panels side by side below it."""
    number, y = 1, 0
    for title, panels in ROWS.items():
        yield {"id": number, "type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}, "panels": []}
        number, y = number + 1, y + 1
        for at, panel in enumerate(panels):
            yield make_panel(panel, number, (at % 3) * 8, y + at // 3 * 8)
            number += 1
        y += (len(panels) + 2) // 3 * 8


def make_panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """One graph."""
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + at), "expr": check(expression), "legendFormat": legend}
            for at, (legend, expression) in enumerate(panel.queries)
        ],
    }


def make_rules() -> dict[str, Any]:
    """Recording rules, and the alerts that use them by group."""
    recorded = [{"record": f"pg_doorman:{name}", "expr": check(text)} for name, text in RECORDED.items()]
    groups = [{"name": "pg_doorman.rules", "rules": recorded}]
    for name, alerts in ALERTS.items():
        groups.append({"name": f"pg_doorman.{name}", "rules": [make_alert(alert) for alert in alerts]})
    return {"groups": groups}


def make_alert(alert: Alert) -> dict[str, Any]:
    """One alert of Prometheus."""
    return {
        "alert": f"PgDoorman{alert.name}",
        "expr": check(alert.expression),
        "for": alert.hold,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.text},
    }


def expressions() -> list[str]:
    """Every expression of the dashboard and the rules."""
    panels = [query for row in ROWS.values() for panel in row for _, query in panel.queries]
    alerts = [alert.expression for group in ALERTS.values() for alert in group]
    return [*panels, *RECORDED.values(), *alerts]


def make_metrics_page() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{name}`' for name in family.labels)} | {family.help_text} |"
        for family in sorted(FAMILIES.values(), key=lambda family: family.name)
    ]
    return PAGE_HEAD.read_text() + "\n".join(rows) + "\n"


def made() -> dict[Path, str]:
    """The files and what is to be in them."""
    notice = "# Made by python -m scripts.make_dashboards; do not edit.\n"
    return {
        DASHBOARD: json.dumps(make_dashboard(), indent=2) + "\n",
        PAGE: make_metrics_page(),
        RULES: notice + yaml.safe_dump(make_rules(), sort_keys=False, width=160),
    }


if __name__ == "__main__":
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path)
