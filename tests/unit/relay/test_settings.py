"""What a client asked for at startup becomes one query and one digest."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.workers.settings import Settings, gather_settings, literal, make_settings, setting_again

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


@pytest.mark.parametrize("encoding", ["LATIN1", "iso-8859-1", "'Windows-1252'", "EUC_TW", "KLINGON"])
def test_what_could_not_be_reported_is_refused(encoding: str) -> None:
    """PostgreSQL would try that for ever, and log each time that it failed."""
    reported = REPORTED | {"server_encoding": "UTF8", "search_path": "public"}
    for name, refused in (("search_path", True), ("my.label", False)):
        found = gather_settings({"client_encoding": encoding, name: "日"}, {}, reported, follow_name=False)
        assert found is not None and bool(found.problem) == refused
    found = gather_settings({"client_encoding": "unicode", "search_path": "日"}, {}, reported, follow_name=False)
    assert found is not None and not found.problem


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
    inner = re.sub(r"\\\\|''|\\x[89a-f][0-9a-f]", "", quoted[2:-1])
    assert quoted[:2] == "E'" and quoted[-1] == "'" and "'" not in inner and "\\" not in inner and quoted.isascii()


def test_what_is_not_ascii_is_bytes_in_the_servers_encoding() -> None:
    """Whatever client_encoding the session has: see test_encodings."""
    assert literal("é\udcffa") == r"E'\xc3\xa9\xffa'"


@pytest.mark.parametrize(
    ("name", "value", "command"),
    [
        ("timezone", "Asia/Tokyo", "SET SESSION \"timezone\" TO E'Asia/Tokyo'"),
        ("my.label", "a, b", 'SET SESSION "my"."label" TO E\'a, b\''),
        ("datestyle", "SQL, DMY", "SET SESSION \"datestyle\" TO E'SQL, DMY'"),
        ("search_path", '"$user", public', "SET SESSION \"search_path\" TO E'$user', E'public'"),
        # what SET would spell otherwise
        ("search_path", "a,b", "SELECT pg_catalog.set_config(E'search_path', E'a,b', false)"),
        ("search_path", "", "SELECT pg_catalog.set_config(E'search_path', E'', false)"),
        ("search_path", '"a, b", "c"', "SELECT pg_catalog.set_config(E'search_path', E'\"a, b\", \"c\"', false)"),
    ],
)
def test_what_is_set_again_is_spelled_as_before(name: str, value: str, command: str) -> None:
    settings = make_settings({name: value, "other": "x"})
    assert setting_again(settings, {name: False})[5:-1].decode() == command
    assert setting_again(settings, {}) == b""
