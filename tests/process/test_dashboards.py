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
from tests.process.test_metrics import scrape, start

NOT_WITHOUT_TLS = {
    "pg_doorman_server_tls_handshake_duration_seconds_bucket",
    "pg_doorman_server_tls_handshake_errors_total",
}


def test_the_files_are_what_the_generator_makes() -> None:
    for path, text in made().items():
        assert path.read_text() == text, f"{path} is out of date: run python -m scripts.make_dashboards"
    assert json.loads(DASHBOARD.read_text())["title"] == "pg_doorman" and yaml.safe_load(RULES.read_text())["groups"]


def test_a_metric_that_there_is_not_is_found() -> None:
    for wrong in ("pg_doorman_pool_sise", "pg_doorman_pool_size_bucket", "rate(pg_doorman_pools_queries_totall[5m])"):
        with pytest.raises(ValueError, match="not in the list"):
            check(wrong)


def test_every_metric_of_dashboard_and_rules_is_there(postgres: Postgres, make_doorman: Any) -> None:
    doorman = start(postgres, make_doorman)
    with psycopg.connect(doorman.dsn(user="app", dbname="postgres"), autocommit=True) as client:
        client.execute("SELECT 1", prepare=True)
    names = {name for name, _ in scrape(doorman)}
    wanted = {name for text in expressions() for name in METRIC.findall(text) if f"{name}:" not in text}
    assert wanted - names == NOT_WITHOUT_TLS


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
