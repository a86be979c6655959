"""Generated scripts: the same messages to PostgreSQL itself and through each kind of pool are answered the same.

tests/e2e/differential says how; `scripts/differential --seconds N` runs as long as you like, with new scripts.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.e2e.differential.bench import DIRECT, Bench, Case
from tests.e2e.differential.smallest import assert_same
from tests.e2e.differential.strategies import cases

FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate],  # `smallest` shrinks
    suppress_health_check=list(HealthCheck),
)


@settings(FIXED, max_examples=40)
@given(case=cases(DIRECT, bare=True))
def test_postgresql_answers_the_same_twice(bench: Bench, case: Case) -> None:
    """Else a script would depend on something but itself, and the tests below would prove nothing."""
    assert_same(bench, case)


@settings(FIXED, max_examples=120)
@given(case=st.one_of(cases("session"), cases("session", bare=True)))
def test_session_mode(bench: Bench, case: Case) -> None:
    assert_same(bench, case)


@settings(FIXED, max_examples=200)
@given(case=cases("transaction"))
def test_transaction_mode(bench: Bench, case: Case) -> None:
    assert_same(bench, case)


@settings(FIXED, max_examples=100)
@given(case=cases("tight1"))
def test_one_server_that_holds_one_statement(bench: Bench, case: Case) -> None:
    assert_same(bench, case)


@settings(FIXED, max_examples=100)
@given(case=cases("tight2"))
def test_two_servers_that_hold_two_statements(bench: Bench, case: Case) -> None:
    assert_same(bench, case)
