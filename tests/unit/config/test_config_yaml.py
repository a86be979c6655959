"""YAML 1.2 scalars, nulls, duplicates, documents; no piece of a broken file reaches a message."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from doorman.config.yaml12 import read_yaml
from doorman.errors import ConfigError


def read(text: str) -> dict[str, Any]:
    document = read_yaml(text)
    assert document.problems == []
    return document.tree


def refuse(text: str) -> list[str]:
    try:
        problems = read_yaml(text).problems
    except ConfigError as error:
        problems = error.problems
    assert problems
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("0600", "0600"),
        ("00", "00"),
        ("-012", "-012"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b101", 5),
        ("+7", 7),
        ("-7", -7),
        ("0", 0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("6432.0", 6432.0),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ('"5"', "5"),
        ("'true'", "true"),
        ('"~"', "~"),
        ('""', ""),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("é", "é"),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_scalars_mean_what_yaml_12_says(scalar: str, value: object) -> None:
    read_value = read(f"k: {scalar}")["k"]
    assert (read_value, type(read_value)) == (value, type(value))


@pytest.mark.parametrize("null", ["", "~", "null", "Null", "NULL", ".inf", "-.INF", ".nan", "!!null ''"])
def test_null_means_not_set(null: str) -> None:
    assert read(f"a: 1\nweb: {null}\n") == {"a": 1}


def test_a_null_replaces_an_earlier_value() -> None:
    assert read("a: 1\na: ~\n") == {}


def test_keys_are_their_literal_text() -> None:
    assert read("0: a\n1.5: b\ntrue: c\n'~': d\n") == {"0": "a", "1.5": "b", "true": "c", "~": "d"}


def test_the_last_duplicate_holds_and_is_reported() -> None:
    tree, problems, warnings = read_yaml("pools:\n  app: {a: 1}\n  app: {b: 2}\n")
    assert (tree, problems) == ({"pools": {"app": {"b": 2}}}, [])
    assert [str(w) for w in warnings] == ["pools.app: given more than once, the last one holds (line 3, column 3)"]


def test_a_duplicate_include_is_an_error() -> None:
    assert refuse("include: {}\ninclude: {}\n") == ["include: duplicate field (line 2, column 1)"]


def test_anchors_work_and_the_merge_key_does_not() -> None:
    assert read("a: &x {k: 1}\nb: *x\nc: {<<: *x}\n") == {"a": {"k": 1}, "b": {"k": 1}, "c": {"<<": {"k": 1}}}


def test_a_byte_order_mark_is_skipped_at_the_loader(loader: Any) -> None:
    assert loader.load("\ufeff" + loader.compose("", "pools: {}")).config.general.admin_username == "admin"


def test_every_problem_of_the_tree_is_listed() -> None:
    assert refuse("a: [1, ~, null]\nb: 9223372036854775808\nc: !!binary aGk=\n") == [
        "a[1]: YAML: null in a list (line 1, column 8)",
        "a[2]: YAML: null in a list (line 1, column 11)",
        "b: YAML: an integer out of range (line 2, column 4)",
        "c: YAML: a tag that is not supported (line 3, column 4)",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("~", "the file is empty"),
        ("- a\n", "expected keys at top level"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
        ("a: 1\n---\n", "more than one document"),
        ("a: &x [*x]\n", "an alias that contains itself"),
        ("? [a, b]\n: 1\n", "a key must be a single word"),
        ("a: 'open\n", "end of stream"),
        ("a: b: c\n", "line 1"),
        ("a: \x01\n", "not allowed"),
        ('a: "\\ud800"\n', "surrogate"),
        ('"\\ud800": a\n', "a key must be"),
        ("a: " + "[" * 2000, "nested too deeply"),
    ],
)
def test_files_that_are_no_configuration_are_refused(text: str, reason: str) -> None:
    assert any(reason in problem for problem in refuse(text)), refuse(text)


@pytest.mark.parametrize(
    "value", ["*hunter2", "!hunter2 x", "&hunter2", "%hunter2", "@hunter2", "{hunter2: [}", "hunter2: x"]
)
def test_no_message_repeats_the_file(value: str) -> None:
    try:
        problems = read_yaml(f"password: {value}\n").problems
    except ConfigError as error:
        problems = error.problems
    assert "hunter2" not in str(problems)


plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)


@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda key: key != "include"), plain, min_size=1))
def test_what_is_dumped_with_quotes_reads_back(tree: dict[str, object]) -> None:
    text = yaml.dump(tree, default_style='"', allow_unicode=False)
    assert read(text) == {key: value for key, value in tree.items() if value is not None}
