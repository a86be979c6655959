"""What a client asked for at startup becomes one query and one digest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.workers.settings import Settings, gather_settings, literal, make_settings

REPORTED = {"client_encoding": "UTF8", "timezone": "Etc/UTC", "datestyle": "ISO, MDY"}


def gather(*, follow_name: bool = False, managed: dict[str, str] | None = None, **parameters: str) -> Settings | None:
    parameters = {"user": "app", "database": "db", **parameters}
    return gather_settings(parameters, managed or {}, REPORTED, follow_name=follow_name)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"application_name": "psql"},
        {"TimeZone": "Etc/UTC"},  # the servers have it anyway
        {"client_encoding": "'utf-8'"},
        {"client_encoding": "utf8", "datestyle": "ISO, MDY"},
        {"server_version": "9.6", "is_superuser": "on", "session_authorization": "postgres"},
        {"Transaction_Isolation": "serializable"},
        {"_pq_.magic": "1", "_PQ_.magic": "1"},
        {"bad name": "x", "1st": "x", "": "x", "a'b": "x"},
    ],
)
def test_nothing_is_set_for(parameters: dict[str, str]) -> None:
    assert gather(**parameters) is None


@pytest.mark.parametrize(
    ("parameters", "call"),
    [
        ({"TimeZone": "Asia/Tokyo"}, "set_config(E'timezone', E'Asia/Tokyo', false)"),
        ({"search_path": 'a, "B c"'}, "set_config(E'search_path', E'a, \"B c\"', false)"),
        ({"client_encoding": "'LATIN1'"}, "set_config(E'client_encoding', E'LATIN1', false)"),
        ({"my.label": "it's \\ here"}, "set_config(E'my.label', E'it''s \\\\ here', false)"),
        ({"extra_float_digits": ""}, "set_config(E'extra_float_digits', E'', false)"),
    ],
)
def test_the_query_sets(parameters: dict[str, str], call: str) -> None:
    found = gather(**parameters)
    assert found is not None
    assert f"pg_catalog.{call}" in found.query.decode()
    assert found.query.decode("utf-8")[5:].startswith("RESET ROLE; RESET ALL; SELECT ")


def test_what_the_operator_manages_is_left_alone() -> None:
    assert gather(managed={"TimeZone": "UTC"}, timezone="Asia/Tokyo") is None


def test_the_name_follows_only_where_it_is_to_be_synchronised() -> None:
    found = gather(follow_name=True, application_name="psql")
    assert found is not None and b"application_name" in found.query


def test_equal_wishes_have_equal_digests_in_any_order_and_case() -> None:
    one, other = gather(TimeZone="X", DateStyle="German"), gather(datestyle="German", timezone="X")
    assert one == other


names = st.text("abcdef_", min_size=1, max_size=5)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
wishes = st.dictionaries(names, texts, min_size=1, max_size=3)


@given(wishes, wishes)
def test_different_wishes_have_different_digests(one: dict[str, str], other: dict[str, str]) -> None:
    assert (make_settings(one).digest == make_settings(other).digest) == (one == other)
    assert 0 < make_settings(one).digest < 1 << 64


@given(st.text())
def test_a_literal_ends_where_it_should(text: str) -> None:
    quoted = literal(text)
    inner = quoted[2:-1].replace("\\\\", "").replace("''", "")
    assert quoted[:2] == "E'" and quoted[-1] == "'" and "'" not in inner and "\\" not in inner
