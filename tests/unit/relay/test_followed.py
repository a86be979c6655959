"""Parameters that follow a client from server to server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.wire.backend import parameter_status
from doorman.workers.encodings import CODECS
from doorman.workers.followed import Followed, parse_reports
from doorman.workers.settings import Settings, make_settings

DEFAULTS = {"timezone": "UTC", "datestyle": "ISO", "application_name": ""}
ENCODINGS = {"client_encoding": "UTF8", "server_encoding": "UTF8", "search_path": "public"}


def make(startup: Settings | None = None, *, follow_name: bool = False) -> Followed:
    return Followed(DEFAULTS, DEFAULTS | (startup.wanted if startup else {}), follow_name=follow_name)


def test_what_a_client_sets_is_wanted_on_its_next_server() -> None:
    followed = make()
    assert followed.tell("TimeZone", "Asia/Tokyo") and followed.changed
    settings = followed.settings(None)
    assert settings is not None and settings.wanted == {"timezone": "Asia/Tokyo"}
    assert followed.planner(None) == settings.planner != 0


def test_telling_the_same_again_changes_nothing() -> None:
    followed = make()
    assert not followed.tell("TimeZone", "UTC") and not followed.changed
    assert followed.tell("timezone", "x") and not followed.tell("TIMEZONE", "x")


def test_a_value_that_goes_back_is_forgotten() -> None:
    followed = make()
    followed.tell("TimeZone", "x")
    assert followed.tell("TimeZone", "UTC") and followed.told == {}
    assert followed.settings(None) is None and followed.planner(None) == 0


def test_role_and_state_of_a_server_do_not_follow_and_the_name_only_where_wished() -> None:
    for name in ("is_superuser", "session_authorization", "in_hot_standby", "application_name"):
        assert not make().tell(name, "x")
    named = make(follow_name=True)
    assert named.tell("application_name", "x") and named.planner(None) == 0
    settings = named.settings(None)
    assert settings is not None and settings.wanted == {"application_name": "x"}


def test_reset_leads_back_to_what_was_asked_for_at_startup() -> None:
    startup = make_settings({"timezone": "Asia/Tokyo"})
    followed = make(startup)
    assert not followed.tell("TimeZone", "Asia/Tokyo")
    followed.tell("TimeZone", "x")
    changed = followed.settings(startup, {"timezone"})
    assert changed is not None and changed.wanted == {"timezone": "x"}
    followed.tell("TimeZone", "UTC")  # RESET on a server whose default it is
    assert followed.settings(startup, {"timezone"}) is startup


def test_a_choice_of_the_servers_own_value_survives_the_way_back_of_something_else() -> None:
    startup = make_settings({"timezone": "Asia/Tokyo"})
    followed = make(startup)
    followed.tell("TimeZone", "UTC")
    settings = followed.settings(startup, {"datestyle"})
    assert settings is not None and settings.wanted == {"timezone": "UTC"}


def test_values_are_kept_in_the_servers_encoding() -> None:
    followed = Followed(ENCODINGS, ENCODINGS, follow_name=False)
    followed.hear("client_encoding", "LATIN1", 1)
    followed.hear("search_path", "\udce9", 2)
    assert followed.told["search_path"] == "é" and followed.write("é") == "\udce9" and followed.write("日") is None
    followed.hear("client_encoding", "UTF8", 3)
    assert followed.told == {"search_path": "é"}


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_reported_at_one_moment_is_in_one_encoding(order: int) -> None:
    followed = Followed(ENCODINGS, ENCODINGS, follow_name=False)
    for name, value in [("client_encoding", "LATIN1"), ("search_path", "\udce9")][::order]:
        followed.hear(name, value, 1)
    assert followed.told == {"client_encoding": "LATIN1", "search_path": "é"}


def test_a_value_in_an_unknown_encoding_is_a_problem_until_it_is_replaced() -> None:
    followed = Followed(ENCODINGS, ENCODINGS, follow_name=False)
    followed.hear("client_encoding", "EUC_TW", 1)
    followed.hear("search_path", "\udcc4\udca1", 2)
    settings = followed.settings(None)
    assert settings is not None and "search_path" in settings.problem
    followed.hear("search_path", "public", 3)
    settings = followed.settings(None)
    assert settings is not None and not settings.problem


def test_each_codec_is_known_to_python() -> None:
    assert all("a".encode(codec) == b"a" for codec in CODECS.values())


names = st.sampled_from(["TimeZone", "DateStyle", "my.label", "application_name"])
tellings = st.lists(st.tuples(names, st.sampled_from(["", "UTC", "ISO", "a", "b"])), max_size=20)


@given(tellings)
def test_the_last_value_told_is_the_one_that_holds(told: list[tuple[str, str]]) -> None:
    followed = make(follow_name=True)
    last: dict[str, str] = {}
    for name, value in told:
        followed.tell(name, value)
        last[name.lower()] = value
    settings = followed.settings(None)
    wanted = settings.wanted if settings else {}
    for name, value in last.items():
        assert wanted.get(name, DEFAULTS.get(name)) == value
    assert parse_reports(b"".join(parameter_status(*pair) for pair in told)) == last
