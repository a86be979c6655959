"""What the result of auth_query.query says of a user."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.auth.auth_query import Found, LookUpProblem, is_possible_name, read_user
from doorman.config.startup import MAX_MAP_BYTES, find_faults
from doorman.wire.backend import Column

TEXT, JSONB, INT = 25, 3802, 23


def columns(*names: str, oid: int = TEXT) -> list[Column]:
    return [Column(name, oid) for name in names]


def parameters_of(text: str | None, oid: int = TEXT) -> tuple[dict[str, str], list[str]]:
    found = read_user([Column("passwd"), Column("startup_parameters", oid)], [["secret", text]], None)
    assert found is not None
    return found.parameters, [reason for reason, _ in found.dropped]


@pytest.mark.parametrize(
    ("names", "row", "password"),
    [
        (["passwd"], ["a"], "a"),
        (["anything"], ["a"], "a"),
        (["usename", "passwd"], ["app", "a"], "a"),
        (["password", "usename"], ["a", "app"], "a"),
        (["password", "passwd"], ["other", "a"], "a"),
    ],
)
def test_the_password_is_found_by_the_columns_name(names: list[str], row: list[str], password: str) -> None:
    found = read_user(columns(*names), [row], None)
    assert found is not None and found.password == password


@pytest.mark.parametrize("rows", [[], [[None]], [[""]], [["jwt-pkey-fpath:/etc/passwd"]], [["jwt-jwks-url:http://x"]]])
def test_there_is_no_such_user(rows: list[list[str | None]]) -> None:
    assert read_user(columns("passwd"), rows, None) is None


@pytest.mark.parametrize(
    ("names", "rows", "words"),
    [
        (["a", "b"], [["x", "y"]], "passwd or password"),
        ([], [], "passwd or password"),
        (["passwd"], [["a"], ["b"]], "more than one row"),
        (["passwd"], [["a", "b"]], "do not fit"),
        (["passwd"], [["x" * 5000]], "more than 4096 bytes"),
    ],
)
def test_a_query_that_is_wrong_lets_nobody_in(names: list[str], rows: list[list[str | None]], words: str) -> None:
    with pytest.raises(LookUpProblem, match=words):
        read_user(columns(*names), rows, None)


@pytest.mark.parametrize(("seconds", "is_there"), [(None, True), (0.5, True), (0.0, False), (-1.0, False)])
def test_a_password_is_valid_until(seconds: float | None, is_there: bool) -> None:
    found = read_user(columns("passwd"), [["a"]], seconds)
    assert (found is not None) == is_there
    if found is not None:
        assert found.expires_in == seconds


def test_parameters_are_canonical() -> None:
    text = json.dumps({"timezone": "UTC", "Work_Mem": "8MB", "my.Thing": ""})
    assert parameters_of(text) == ({"TimeZone": "UTC", "work_mem": "8MB", "my.thing": ""}, [])
    assert parameters_of(text, JSONB)[0]["TimeZone"] == "UTC"


@pytest.mark.parametrize("text", [None, ""])
def test_no_parameters_are_none(text: str | None) -> None:
    assert parameters_of(text) == ({}, [])


@pytest.mark.parametrize(
    ("text", "oid", "reason"),
    [
        ("{", TEXT, "auth_query_invalid_json"),
        ("[" * 9000, TEXT, "auth_query_invalid_json"),
        ("[]", TEXT, "auth_query_invalid_shape"),
        ("{}", INT, "auth_query_bad_type"),
        (json.dumps({"a": "x" * MAX_MAP_BYTES}), TEXT, "auth_query_oversize"),
        ('{"a": "' + "\\u00e4" * 1500 + 'x"}', TEXT, None),
    ],
)
def test_a_document_that_is_no_good_is_dropped(text: str, oid: int, reason: str | None) -> None:
    parameters, reasons = parameters_of(text, oid)
    assert reasons == ([] if reason is None else [reason])
    assert bool(parameters) == (reason is None)


@pytest.mark.parametrize(
    "entry",
    [
        {"role": "postgres"}, {"SESSION_authorization": "x"}, {"_pq_.x": "1"}, {"1a": "x"}, {"a b": "x"}, {"": "x"},
        {"a": 1}, {"a": None}, {"a": "nul\0"}, {"a": "\ud800"}, {"options": "-c x=y"}, {"user": "postgres"},
    ],
)  # fmt: skip
def test_an_entry_that_is_no_good_is_dropped_alone(entry: dict[str, object]) -> None:
    parameters, reasons = parameters_of(json.dumps({**entry, "work_mem": "1MB"}))
    assert (parameters, reasons) == ({"work_mem": "1MB"}, ["auth_query_invalid_entry"])


def test_of_two_spellings_of_one_parameter_one_is_kept() -> None:
    assert parameters_of('{"timezone": "UTC", "TimeZone": "Asia/Tokyo"}') == (
        {"TimeZone": "UTC"}, ["auth_query_invalid_entry"],
    )  # fmt: skip


@given(
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)
    )
)
def test_whatever_a_row_says_what_is_used_can_be_sent(document: object) -> None:
    parameters, _ = parameters_of(json.dumps(document))
    assert list(find_faults(parameters)) == []


@given(st.text(max_size=60))
def test_any_text_is_survived(text: str) -> None:
    parameters_of(text)


def test_names_that_no_role_can_have() -> None:
    assert is_possible_name("x" * 63)
    assert not any(map(is_possible_name, ("", "x" * 64, "ä" * 32, "not UTF-8: \udcff")))


def test_a_password_is_not_shown() -> None:
    found = Found(password="top secret")
    assert "top" not in repr(found) and "top" not in found.mark
    assert found.mark != Found(password="other").mark
