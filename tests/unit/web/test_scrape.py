"""A scrape of a thousand pools: what it costs, and that prometheus-client reads it as we mean it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from doorman.config.schema import Config, General
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from doorman.web.exposition import Exposition, label
from doorman.web.families import FAMILIES
from doorman.web.figures import Figures
from doorman.web.metrics import fill
from tests.simulate.rows import make_table

POOLS = 1000
MOST_TIMES = 8  # a quiet machine of 2026 takes 0.07 s, 2.5 times what its lines take; here others may use its caches


@pytest.fixture(scope="module")
def busy() -> Table:
    """A thousand pools with traffic in two workers each, as many clients, a keeper."""
    table = make_table(
        processes=3, pool_sizes=[2] * POOLS, slots=2 * POOLS, clients=2 * POOLS, max_connections=2 * POOLS
    )
    for row in range(2):
        worker = Trial(table, process=row)
        for pool in range(POOLS):
            for time_us in (80, 150, 900, 12_000):
                worker.count_query(pool, time_us)
            worker.log_in(worker.admit(1), pool)
    return table


def figures(table: Table) -> Figures:
    config = Config(general=General(admin_username="a", admin_password="b"), pools={})
    return Figures(table, config, "1.2.3", "info", Counter(), Counter())


def test_a_scrape_of_a_thousand_pools_takes_not_much_longer_than_to_format_its_lines(busy: Table) -> None:
    """Processor time, the best of five, beside a yardstick in turn: the machine has other things to do, or is slow."""
    text = fill(figures(busy)).text()
    lines = range(text.count("\n"))
    taken, yardstick = [], []
    for _ in range(5):
        taken.append(seconds(lambda: fill(figures(busy)).text()))
        yardstick.append(
            seconds(lambda: "".join([f'pools{{user="{line}",database="{line}"}} {line}\n' for line in lines]))
        )
    assert min(taken) < MOST_TIMES * min(yardstick), (taken, yardstick)
    assert text.count("\npg_doorman_pools_query_duration_seconds_count{") == POOLS and len(text) > 5_000_000


def seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def test_what_is_written_is_what_is_read(busy: Table) -> None:
    seen = set()
    for family in text_string_to_metric_families(fill(figures(busy)).text()):
        keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(keys) == len(set(keys)), family.name
        assert family.documentation and family.type != "unknown"
        seen.add(family.name)
    assert len(seen) > 50


@pytest.mark.parametrize("value", ["plain", 'quo"te', "back\\slash", "new\nline", "é\U0001f418", "", "a,b={}"])
def test_any_label_value_comes_back(value: str) -> None:
    out = Exposition()
    out.add("pg_doorman_build_info", 1, label("version", value))
    (family,) = text_string_to_metric_families(out.text())
    assert family.samples[0].labels == {"version": value} and family.samples[0].value == 1


def test_an_empty_family_is_left_out() -> None:
    out = Exposition()
    out.add_each("pg_doorman_pool_size", [], [])
    assert out.text() == ""


def test_the_list_is_in_order() -> None:
    for family in FAMILIES.values():
        assert family.help[-1] in ".;" and family.kind in ("gauge", "counter", "histogram")
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert not family.successor or family.successor in FAMILIES
