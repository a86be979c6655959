"""Which of the parameters asked for at startup a text leads back to the servers' own values."""

from __future__ import annotations

import pytest

from doorman.workers.settings import make_settings, restoring
from doorman.workers.way_back import WayBack

ASKED = make_settings({"timezone": "Asia/Tokyo", "search_path": "a", "my.own": "x", "role": "other"})
EVERYTHING = {"timezone", "search_path", "my.own", "role"}


def note(*texts: str) -> WayBack:
    way_back = WayBack(ASKED)
    for text in texts:
        way_back.note(text.encode())
    return way_back


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("RESET TimeZone", {"timezone"}),
        ("reset time zone", {"timezone"}),
        ('/* so */ RESET "timezone" ;', {"timezone"}),
        ("RESET /* a * b **/ TimeZone", {"timezone"}),
        ("RESET my . own", {"my.own"}),
        ('SET SESSION my/**/."own" /* */ TO /**/ DEFAULT', {"my.own"}),
        ('RESET my."own"', {"my.own"}),
        ("RESET work_mem", set()),
        ("RESET ALL", EVERYTHING - {"role"}),
        ("DISCARD ALL", EVERYTHING),
        ("DISCARD PLANS", set()),
        ("RESET ROLE", {"role"}),
        ("RESET SESSION AUTHORIZATION", {"role"}),
        ("SET SESSION AUTHORIZATION DEFAULT", {"role"}),
        ("SET LOCAL SESSION AUTHORIZATION DEFAULT", {"role"}),
        ("SET TimeZone TO DEFAULT", {"timezone"}),
        ("SET SESSION TimeZone = DEFAULT", {"timezone"}),
        ("SET LOCAL TimeZone=DEFAULT", {"timezone"}),
        ("SET TIME ZONE LOCAL", {"timezone"}),
        ("SET LOCAL TIME ZONE DEFAULT", {"timezone"}),
        ("SET TIME ZONE 'UTC'", set()),
        ("SET SCHEMA 'a'", set()),
        ("SET TimeZone = 'default'", set()),
        ("SET DateStyle = 'default'", set()),  # it is, but nobody asked for another at startup
        ('SET search_path TO "default"', set()),
        ("SET LOCAL TimeZone = 'UTC'", set()),
        ("BEGIN; RESET TimeZone; SELECT 1", {"timezone"}),
        ("RESET TimeZone; SET TimeZone = 'UTC'", set()),
        ("RESET TimeZone; SET TIME ZONE 'UTC'", set()),
        ("DISCARD ALL; SET ROLE app", EVERYTHING - {"role"}),
        ("SET LOCAL TimeZone TO DEFAULT; COMMIT; RESET search_path", {"search_path"}),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SET CONSTRAINTS ALL DEFERRED; SET", set()),
        ("SELECT 'RESET TimeZone'; -- RESET TimeZone", set()),
    ],
)
def test_names(text: str, names: set[str]) -> None:
    way_back = note(text)
    assert way_back.names.keys() == names
    assert not way_back.doubtful
    local = "LOCAL" in text and "ZONE LOCAL" not in text
    assert way_back.lasting == (set() if local and "RESET" not in text else names)


@pytest.mark.parametrize(
    "texts",
    [
        ["RESET TimeZone; ROLLBACK"],
        ["RESET TimeZone", "ROLLBACK TO s"],
        ["RESET TimeZone; SELECT set_config('TimeZone', 'UTC', false)"],
    ],
)
def test_what_cannot_be_told_by_the_texts_is_asked(texts: list[str]) -> None:
    way_back = note(*texts)
    assert way_back.doubtful and way_back.lasting == EVERYTHING
    assert way_back.query(in_transaction=True) == restoring(ASKED)


def test_what_stands_in_the_body_of_a_function_leads_nothing_back() -> None:
    text = "CREATE FUNCTION f() RETURNS void AS $$BEGIN PERFORM 1; RESET TimeZone; END$$ LANGUAGE plpgsql"
    way_back = note(text)
    assert not way_back.doubtful and not way_back.names


def test_what_is_set_again_holds_as_long_as_the_way_back() -> None:
    way_back = note("SET LOCAL TimeZone TO DEFAULT; RESET my.own")
    assert way_back.query(in_transaction=True)[5:-1] == (
        b'SET SESSION "my"."own" TO E\'x\'; SET LOCAL "timezone" TO E\'Asia/Tokyo\''
    )
    assert way_back.query(in_transaction=False)[5:-1] == b'SET SESSION "my"."own" TO E\'x\''
    assert note("RESET work_mem").query(in_transaction=True) == b""


def test_what_leads_back_is_told_even_where_nothing_was_asked_for() -> None:
    assert WayBack(ASKED).note(b"RESET work_mem") and not WayBack(ASKED).note(b"SET work_mem = '5MB'")
