"""Values on the wire, in both formats."""

from __future__ import annotations

from decimal import Decimal

import pytest

from doorman.admin.result import BINARY_FORMAT, TEXT_FORMAT, describe_row, encode_rows, int4, numeric, text
from doorman.wire import backend
from tests.harness import Postgres


def test_row_description_says_types_and_formats() -> None:
    described = describe_row((text("a"), numeric("b")), (TEXT_FORMAT, BINARY_FORMAT))
    assert [(column.name, column.oid, column.typlen) for column in backend.parse_row_description(described[5:])] == [
        ("a", 25, -1),
        ("b", 1700, -1),
    ]
    assert described[-2:] == b"\0\1"
    assert describe_row((text("a"),), (TEXT_FORMAT,)) == backend.row_description([backend.Column("a")])


def test_text_rows_are_those_of_the_wire_package() -> None:
    rows = encode_rows((text("a"), numeric("b")), (TEXT_FORMAT, TEXT_FORMAT), [("é\udcff", -12), ("", 0)])
    assert rows == backend.data_row(["é\udcff", "-12"]) + backend.data_row(["", "0"])


@pytest.mark.parametrize(
    ("value", "groups"),  # count, weight, sign, scale, digits
    [
        (0, "0000 0000 0000 0000"),
        (1, "0001 0000 0000 0000 0001"),
        (-1, "0001 0000 4000 0000 0001"),
        (9999, "0001 0000 0000 0000 270f"),
        (10000, "0001 0001 0000 0000 0001"),
        (120003, "0002 0001 0000 0000 000c 0003"),
        (100000000, "0001 0002 0000 0000 0001"),
        (2**64, "0005 0004 0000 0000 0734 1a58 02e1 03bb 0650"),
    ],
)
def test_binary_numeric_has_digits_of_base_10000(value: int, groups: str) -> None:
    raw = bytes.fromhex(groups)
    rows = encode_rows((numeric("n"),), (BINARY_FORMAT,), [(value,)])
    assert rows == backend.message(b"D", b"\0\1" + len(raw).to_bytes(4, "big") + raw)


def test_binary_numeric_is_what_postgresql_sends(postgres: Postgres) -> None:
    edges = {base + step for base in (0, 10_000, 10**8, 10**12, 2**63) for step in (-1, 0, 1)}
    values = sorted(edges | {-edge for edge in edges})
    rows = postgres.admin(f"SELECT n::text, numeric_send(n) FROM unnest(array{values}::numeric[]) n")
    for value, sent in rows:
        field = len(sent).to_bytes(4, "big") + bytes(sent)
        assert encode_rows((numeric("n"),), (BINARY_FORMAT,), [(int(value),)]) == backend.message(b"D", b"\0\1" + field)
    assert len(rows) == len(values)


def test_binary_fractions_are_what_postgresql_sends(postgres: Postgres) -> None:
    values = ["0", "1.5", "0.000001", "0.0001", "12345.67891", "-0.5", "10000.0001", "3.000000"]
    array = "array[" + ",".join(values) + "]::numeric[]"
    rows = postgres.admin(f"SELECT n::text, numeric_send(n) FROM unnest({array}) n")
    for value, sent in rows:
        field = len(sent).to_bytes(4, "big") + bytes(sent)
        encoded = encode_rows((numeric("n"),), (BINARY_FORMAT,), [(Decimal(value),)])
        assert encoded == backend.message(b"D", b"\0\1" + field), value
    assert len(rows) == len(values)


def test_int4_is_cut_to_what_it_can_hold() -> None:
    for value, shown in [(7, 7), (-1, -1), (2**31, 2**31 - 1)]:
        binary = encode_rows((int4("n"),), (BINARY_FORMAT,), [(value,)])
        assert binary == backend.message(b"D", b"\0\1\0\0\0\4" + shown.to_bytes(4, "big", signed=True))
        assert encode_rows((int4("n"),), (TEXT_FORMAT,), [(value,)]) == backend.data_row([str(shown)])
