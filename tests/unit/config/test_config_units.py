"""Durations, sizes, seconds and modes: every accepted form, every refused one, and that formatting reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorman.config import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (1500, 1500),
        ("1500", 1500),
        ("+1500", 1500),
        (" 42 ", 42),
        ("500ms", 500),
        ("3s", 3_000),
        ("3 s", 3_000),
        ("3S", 3_000),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("250MS", 250),
    ],
)
def test_durations_are_milliseconds(text: object, expected: int) -> None:
    assert units.read_duration_ms(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", -1, "1.5s", 1.5, True, [], "3us", "3w", "3 s s", "3s3", "99999999999999999s", "٣s", "1_000", None],
)
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError):
        units.read_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("1B", 1),
        ("1K", 2**10),
        ("1kb", 2**10),
        ("512 K", 512 * 2**10),
        ("1m", 2**20),
        ("256MB", 256 * 2**20),
        ("2g", 2 * 2**30),
        ("1GB", 2**30),
    ],
)
def test_sizes_are_bytes(text: object, expected: int) -> None:
    assert units.read_size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "1MiB", "1TB", "-1", "1.5MB", 0.5, False, "9999999999GB"])
def test_other_sizes_are_refused(text: object) -> None:
    with pytest.raises(ValueError):
        units.read_size_bytes(text)


@pytest.mark.parametrize(("text", "expected"), [(5, 5), ("5", 5), ("+7", 7), ("5s", 5), ("2m", 120), ("3000ms", 3)])
def test_seconds_count_seconds(text: object, expected: int) -> None:
    assert units.read_seconds(text) == expected


@pytest.mark.parametrize("text", ["1500ms", "", -1, True, "x"])
def test_fractions_of_a_second_are_refused(text: object) -> None:
    with pytest.raises(ValueError):
        units.read_seconds(text)


@pytest.mark.parametrize(("text", "mode"), [("0600", 0o600), ("0o660", 0o660), ("0O777", 0o777), ("7", 7), ("0", 0)])
def test_modes_are_octal(text: str, mode: int) -> None:
    assert units.read_octal_mode(text) == mode


@pytest.mark.parametrize("text", ["", "0o", "8", "rw", "1000", "-1", "0x1ff", 600, "06 00"])
def test_other_modes_are_refused(text: object) -> None:
    with pytest.raises(ValueError):
        units.read_octal_mode(text)


@given(st.integers(0, units.MAX_INTEGER))
def test_a_formatted_duration_reads_back(milliseconds: int) -> None:
    assert units.read_duration_ms(units.format_duration(milliseconds)) == milliseconds


@given(st.integers(0, units.MAX_INTEGER))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert units.read_size_bytes(units.format_size(size)) == size


@pytest.mark.parametrize(("milliseconds", "text"), [(0, "0ms"), (1500, "1500ms"), (90_000, "90s"), (600_000, "10m")])
def test_durations_are_shown_in_the_largest_whole_unit(milliseconds: int, text: str) -> None:
    assert units.format_duration(milliseconds) == text


@given(st.integers(), st.sampled_from([*units.MILLISECONDS, "S", "Ms", "H"]))
def test_a_duration_is_either_exact_or_refused(number: int, suffix: str) -> None:
    exact = number * units.MILLISECONDS[suffix.lower()]
    try:
        assert units.read_duration_ms(f"{number}{suffix}") == exact
    except ValueError:
        assert not 0 <= exact <= units.MAX_INTEGER
