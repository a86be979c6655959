"""Our text against prometheus-client's of the same registry, and OpenMetrics for who takes nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from doorman.config.schema import Config, General, Pool, User
from doorman.shm.look_ups import COUNTS
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from doorman.web.collector import encode, make_registry, shadowed
from doorman.web.families import FAMILIES
from doorman.web.figures import Figures, LookUpFigures
from doorman.web.metrics import fill
from tests.simulate.rows import make_table

PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"


@pytest.fixture(scope="module")
def figures() -> Callable[[], Figures]:
    table = make_table(processes=3, pool_sizes=[2] * 20, slots=40, clients=40, max_connections=40)
    for row in range(2):
        worker = Trial(table, process=row)
        for pool in range(20):
            for time_us in (80, 150, 900, 12_000):
                worker.count_query(pool, time_us * (1 + pool))
            worker.log_in(worker.admit(1), pool)
    return lambda: figures_of(table)


def figures_of(table: Table) -> Figures:
    user = User(username='quo"te', pool_size=1)
    pools = {"back\\slash\nline": Pool(server_host="h", users=[user]), "é": Pool(server_host="h", users=[user])}
    config = Config(general=General(admin_username="a", admin_password="b"), pools=pools)
    looked_up = LookUpFigures("é", 3, dict.fromkeys(COUNTS, 7), 1)
    asked, answered = Counter({("anonymous", "none"): 2}), Counter({("anonymous", "2xx"): 2})
    return Figures(table, config, "1.2.3", "info", asked, answered, [looked_up])


def samples_of(text: str, parse: Any = text_string_to_metric_families) -> dict[Any, tuple[float, str, str]]:
    """Samples that do not depend on the instant at which they were read, with type and help of their families."""
    moving = ("memory", "cpu", "age")
    return {
        (sample.name, frozenset(sample.labels.items())): (sample.value, family.type, family.documentation)
        for family in parse(text)
        for sample in family.samples
        if not any(word in sample.name for word in moving)
    }


def test_the_registry_has_the_samples_that_are_scraped(figures: Callable[[], Figures]) -> None:
    ours = samples_of(fill(figures()).text())
    theirs = samples_of(generate_latest(make_registry(figures)).decode())
    assert ours == theirs and len(ours) > 1000


def test_registration_describes_every_family_and_reads_nothing() -> None:
    def fail() -> Figures:
        raise AssertionError

    described = {metric.name for collector in collectors_of(make_registry(fail)) for metric in collector.describe()}
    assert described == {name.removesuffix("_total") for name in FAMILIES}


def collectors_of(registry: CollectorRegistry) -> list[Any]:
    return list(registry._collector_to_names)


@pytest.mark.parametrize("accept", ["", "*/*", PROMETHEUS, "text/plain;version=1.0.0", "application/json"])
def test_text_for_all_who_take_it(figures: Callable[[], Figures], accept: str) -> None:
    body, content_type = encode(accept, figures)
    assert content_type == "text/plain; version=0.0.4" and samples_of(body.decode()) == samples_of(
        fill(figures()).text()
    )


def test_openmetrics_for_who_takes_nothing_else(figures: Callable[[], Figures]) -> None:
    body, content_type = encode("application/openmetrics-text; version=1.0.0", figures)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0") and body.endswith(b"# EOF\n")
    found = {key: value[0] for key, value in samples_of(body.decode(), parse_openmetrics).items()}
    left_out = shadowed()
    wanted = {key: value[0] for key, value in samples_of(fill(figures()).text()).items() if key[0] not in left_out}
    assert found == wanted and "pg_doorman_pools_bytes" in left_out


def test_our_writer_is_worth_having(figures: Callable[[], Figures]) -> None:
    """Should prometheus-client ever be as fast, exposition.py has no reason to write text."""
    times = []
    registry = make_registry(figures)
    for write in (lambda: fill(figures()).text(), lambda: generate_latest(registry)):
        taken = []
        for _ in range(5):
            began = time.process_time()
            write()
            taken.append(time.process_time() - began)
        times.append(min(taken))
    assert times[0] * 2 < times[1], times
