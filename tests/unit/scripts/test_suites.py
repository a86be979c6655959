"""What scripts/suites makes of the output of others, without running them."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.suites.driver_suites import outcomes_of_go, outcomes_of_pytest
from tests.suites.fetch import codename, entries_of
from tests.suites.known import KNOWN
from tests.suites.run import SUITES, report
from tests.suites.suite import WHOLE_RUN, Missing, Outcome

PYTEST = """\
collecting ... collected 3 items
tests/test_a.py::test_one PASSED      [ 33%]
tests/test_a.py::test_two[a b] FAILED [ 66%]
tests/test_b.py::T::test_three SKIPPED (no server) [100%]
=========== short test summary info ============
FAILED tests/test_a.py::test_two[a b] - AssertionError: 1 != 2
"""


def ended(code: int, output: str) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, output)


def test_pytest_says_what_each_test_came_to() -> None:
    outcomes = outcomes_of_pytest(ended(1, PYTEST))
    assert {name: one.result for name, one in outcomes.items()} == {
        "tests/test_a.py::test_one": "passed",
        "tests/test_a.py::test_two[a b]": "failed",
        "tests/test_b.py::T::test_three": "skipped",
    }
    assert outcomes["tests/test_a.py::test_two[a b]"].detail == "AssertionError: 1 != 2"


def test_a_suite_that_did_not_end_differs_from_one_that_did_not_end_either() -> None:
    outcomes = outcomes_of_pytest(ended(2, "ImportError"))
    assert outcomes.keys() == {WHOLE_RUN}
    assert not report("psycopg2", "session", outcomes, outcomes)


def test_go_says_it_too_and_a_package_counts_only_where_no_test_explains_it() -> None:
    events = [
        {"Action": "output", "Package": "example.org/m/a", "Test": "TestOne", "Output": "said\n"},
        {"Action": "fail", "Package": "example.org/m/a", "Test": "TestOne"},
        {"Action": "fail", "Package": "example.org/m/a"},
        {"Action": "pass", "Package": "example.org/m/b", "Test": "TestTwo/file='/tmp/TestTwo123/001/x'"},
        {"Action": "pass", "Package": "example.org/m/b"},
        {"Action": "fail", "Package": "example.org/m"},
    ]
    outcomes = outcomes_of_go("no event\n" + "\n".join(map(json.dumps, events)), "example.org/m")
    assert {name: one.result for name, one in outcomes.items()} == {
        "/a:TestOne": "fail",
        "/b:TestTwo/file='/tmp/Test/001/x'": "pass",
        ":": "fail",
    }
    assert outcomes["/a:TestOne"].detail == "said\n"


def test_only_what_is_known_may_differ(capsys: pytest.CaptureFixture[str]) -> None:
    name, tests = next(iter(KNOWN.items()))
    direct = {test: Outcome("a\nb") for test in [*tests, "other"]}
    pooled = {**direct, next(iter(tests)): Outcome("a\nc")}
    assert report(name, "session", direct, direct)
    assert report(name, "session", direct, pooled)
    assert not report(name, "session", direct, {**pooled, "other": Outcome("a\nc")})
    assert not report(name, "session", direct, {test: pooled[test] for test in tests})
    printed = capsys.readouterr().out
    assert "DIFFERS: other" in printed and "-b" in printed and "+no result" in printed
    assert "did not differ this time" in printed


def test_what_is_known_belongs_to_a_suite() -> None:
    assert KNOWN.keys() <= SUITES.keys()


def test_sources_come_from_where_the_packages_of_this_release_do() -> None:
    try:
        release = codename()
    except Missing:
        pytest.skip("no Debian")
    stanza = f"Types: deb\nURIs: mirror\nSuites: {release} {release}-updates other\nComponents: main\nSigned-By: /key\n"
    assert list(entries_of(stanza)) == [
        f"{kind} [signed-by=/key] mirror {suite} main\n"
        for suite in (release, f"{release}-updates")
        for kind in ("deb", "deb-src")
    ]
    assert not list(entries_of(stanza + "Enabled: no\n"))
