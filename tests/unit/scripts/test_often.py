"""What scripts/often makes of callgrind's output."""

from __future__ import annotations

from scripts.benchmark.often import read_counts, report

OUTPUT = """version: 1
events: Ir
positions: instr line

ob=(1) /lib/relay.so
fl=(1) ???
fn=(1) feed
0x1000 0 30
+8 0 10
calls=20 0x2000 0
+4 0 500
+52 0 40

fn=(2) send
0x2000 0 400
ob=(2) /lib/libc.so
fn=(3) memcpy
0x1000 0 1
fn=(1)
* 0 5
"""


def test_costs_of_calls_are_the_callees_and_lines_are_counted_once() -> None:
    counts = read_counts(OUTPUT)
    assert counts.instructions == {"feed": 85, "send": 400, "memcpy": 1}


def test_a_line_counts_where_most_transactions_touch_it() -> None:
    named = OUTPUT.replace("calls=20", "cfn=(2) send\ncalls=20").replace("\nfn=(2) send", "\nfn=(2)")
    assert report("extended 16", read_counts(named), 2) == [
        "extended 16: 49 instructions, 4 lines, 3 pages of code a transaction",
        "    40.0    1 lines   2.00 calls  send",
        "     8.5    3 lines   0.00 calls  feed",
    ]
