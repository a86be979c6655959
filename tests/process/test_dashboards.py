"""The dashboard and the rules in packaging/: as the generator makes them, about metrics that a pooler really has."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import psycopg
import pytest
import yaml

from scripts.make_dashboards import DASHBOARD, METRIC, RULES, check, expressions, made
from tests.harness import Postgres
from tests.harness.doorman import pool_of
from tests.process.test_metrics import scrape, start

NOT_WITHOUT_EVENTS = {
    "pg_doorman_server_tls_handshake_duration_seconds_bucket",
    "pg_doorman_server_tls_handshake_duration_seconds_count",
    "pg_doorman_server_tls_handshake_errors_total",
    "pg_doorman_backend_startup_parameter_errors_total",
    "pg_doorman_startup_parameters_dropped_total",
}
NOT_YET = {
    "pg_doorman_patroni_api_requests_total",
    "pg_doorman_patroni_api_errors_total",
    "pg_doorman_patroni_api_duration_seconds_bucket",
    "pg_doorman_fallback_host",
    "pg_doorman_fallback_connections_total",
    "pg_doorman_fallback_candidate_failures_total",
    "pg_doorman_web_sso_validation_errors_total",
}
NEVER = {
    "pg_doorman_clients_prepared_anonymous_evictions_total",
    "pg_doorman_query_interner_gc_duration_seconds_bucket",
}
"""See docs/metrics.md."""


def test_the_files_are_what_the_generator_makes() -> None:
    for path, text in made().items():
        assert path.read_text() == text, f"{path} is out of date: run python -m scripts.make_dashboards"
    assert json.loads(DASHBOARD.read_text())["title"] == "pg_doorman" and yaml.safe_load(RULES.read_text())["groups"]


def test_a_metric_that_there_is_not_is_found() -> None:
    with pytest.raises(ValueError, match="recording rules"):
        check("pg_doorman:query_p99_secs > 1")
    for wrong in ("pg_doorman_pool_sise", "pg_doorman_pool_size_bucket", "rate(pg_doorman_pools_queries_totall[5m])"):
        with pytest.raises(ValueError, match="not in the list"):
            check(wrong)


def test_every_metric_of_dashboard_and_rules_is_there(postgres: Postgres, make_doorman: Any) -> None:
    doorman = start(postgres, make_doorman)
    query = {"query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1", "user": "postgres"}
    looked_up = pool_of(postgres, users=[], auth_query=query)
    doorman.reload(pools={**doorman.config["pools"], "looked up": looked_up})
    with psycopg.connect(doorman.dsn(user="app", dbname="postgres"), autocommit=True) as client:
        client.execute("SELECT 1", prepare=True)
        client.execute("SELECT repeat('x', 300000)")
    scrape(doorman)
    names = {name for name, _ in scrape(doorman)}
    wanted = {name for text in expressions() for name in METRIC.findall(text)}
    assert wanted - names == NOT_WITHOUT_EVENTS | NOT_YET | NEVER


def test_the_names_that_people_route_by_are_there() -> None:
    """What the reference ships: 57 alerts, 28 recording rules, 13 rows. We have a few more."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    alerts = [rule["alert"] for rule in rules if "alert" in rule]
    records = [rule["record"] for rule in rules if "record" in rule]
    assert len(alerts) == len(set(alerts)) >= 57 and len(records) == len(set(records)) >= 28
    assert all(rule["labels"]["severity"] in ("critical", "warning") for rule in rules if "alert" in rule)
    rows = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] == "row"]
    assert len(rows) == 13


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    panels = [re.sub(r"\$\w+", ".*", text) for text in expressions()]
    rules = [{"record": f"panel:number{number}", "expr": text} for number, text in enumerate(panels)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True, timeout=30
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
