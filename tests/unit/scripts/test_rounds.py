"""What interleaved rounds of a benchmark come to."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from scripts.benchmark.report import table
from scripts.benchmark.rounds import summarize


@dataclass(frozen=True)
class Sample:
    cpu_us: float
    per_second: float = 1000


def test_rounds_are_compared_one_by_one() -> None:
    """The machine is three times as slow in the second half: medians of everything would say 4.5 / 2.5."""
    ours = [Sample(2), Sample(2.5), Sample(6), Sample(7), Sample(3)]
    theirs = [Sample(1), Sample(1), Sample(3), Sample(4), Sample(4)]
    numbers = summarize({"pg_doorman": ours, "pgbouncer": theirs})["pg_doorman"]
    assert (numbers["cpu_us"], numbers["per_second"]) == (3, 1000)
    assert (numbers["cpu_us_low"], numbers["cpu_us_ratio"], numbers["cpu_us_high"]) == (1.75, 2, 2)
    assert numbers["per_second_ratio"] == 1


def test_one_round_has_no_spread() -> None:
    numbers = summarize({"scraped": [Sample(3)], "not scraped": [Sample(2)]})["scraped"]
    assert (numbers["cpu_us_low"], numbers["cpu_us_ratio"], numbers["cpu_us_high"]) == (1.5, 1.5, 1.5)


@pytest.mark.parametrize("nothing", [0, float("nan")])
def test_what_was_not_measured_has_no_ratio(nothing: float) -> None:
    results = {"trust": summarize({"pg_doorman": [Sample(2), Sample(3)], "pgbouncer": [Sample(2), Sample(nothing)]})}
    assert "cpu_us_ratio" not in results["trust"]["pg_doorman"]
    assert [len(line.split()) for line in table("login", results)[1:]] == [5, 4]


def test_without_a_reference_there_are_numbers_alone() -> None:
    assert summarize({"pg_doorman": [Sample(2), Sample(4)]}) == {"pg_doorman": {"cpu_us": 3, "per_second": 1000}}


def test_a_table_shows_the_middle_half() -> None:
    found = {"pg_doorman": [Sample(x) for x in (1, 2, 3, 4, 5)], "pgbouncer": [Sample(2)] * 5}
    head, ours, theirs = table("login", {"trust": summarize(found)})
    assert "middle half" in head
    assert ours.split() == ["trust", "pg_doorman", "3.0", "1.500", "1.00-2.00", "1,000", "1.000"]
    assert theirs.split() == ["trust", "pgbouncer", "2.0", "1,000"]
