"""The segment itself: sizes, names, mailboxes, pool rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorman.shm.rows import (
    get_failure,
    get_parameters,
    pool_rows,
    process_rows,
    set_parameters,
    set_up_pool,
    slot_rows,
)
from doorman.shm.table import Table, row_sizes
from doorman.shm.trial import Trial

PARAMETER_BYTES = 16_384
ROOT = Path(__file__).resolve().parents[3]
FILL = """
from doorman.shm.table import Table
from doorman.shm.trial import Trial

trial = Trial(Table.create(processes=2, pools=3, slots=8, clients=4000, max_connections=4000))
print(sum(trial.admit(1) >= 0 for _ in range(4000)))
"""


def make(slots: int = 8, processes: int = 4) -> Table:
    table = Table.create(processes=processes, pools=3, slots=slots, clients=10, max_connections=6)
    set_up_pool(
        table,
        1,
        database="bücher",
        user="app",
        session_mode=True,
        pool_size=5,
        min_pool_size=2,
        max_opening=1,
        round_robin=False,
        check_after_us=0,
    )
    return table


@pytest.fixture
def table() -> Iterator[Table]:
    table = make()
    yield table
    table.close()


def test_a_new_table_has_the_sizes_that_were_asked_for(table: Table) -> None:
    assert (table.process_count, table.pool_count, table.slot_count, table.max_clients) == (4, 3, 8, 10)
    assert table.total_bytes % 4096 == 0 and os.fstat(table.fd).st_size == table.total_bytes
    assert not os.get_inheritable(table.fd)
    assert os.fstat(table.fd).st_mode & 0o777 == 0o600


def test_no_name_is_left_behind(table: Table) -> None:
    assert not [path.name for path in Path("/dev/shm").glob(f"*pg_doorman-{os.getpid()}-*")]


def test_a_small_file_system_for_shared_memory_is_no_limit() -> None:
    """Where /dev/shm was full, whoever touched a new page of the table ended by SIGBUS: all of them in the end."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a mount namespace (root, unshare)")
    small = "mount -t tmpfs -o size=256k tmpfs /dev/shm"
    told = subprocess.run(
        [unshare, "-m", "sh", "-c", f'{small} && exec {sys.executable} -c "$0"', FILL],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (told.returncode, told.stdout) == (0, "4000\n"), told.stderr


@pytest.mark.parametrize("sizes", [{"slots": 65_537}, {"processes": 65}])
def test_sizes_that_do_not_fit_the_layout_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="too many"):
        make(**sizes)


def test_a_pool_row_says_what_it_was_set_up_with(table: Table) -> None:
    (pool,) = pool_rows(table)
    assert (pool.number, pool.database, pool.user, pool.pool_mode) == (1, "bücher", "app", "session")
    assert (pool.pool_size, pool.min_pool_size, pool.idle, pool.waiting, pool.paused) == (5, 2, 0, 0, False)
    assert slot_rows(table) == []


def test_connection_ids_are_never_given_twice(table: Table) -> None:
    assert len({table.next_connection_id() for _ in range(100)}) == 100


def test_a_process_that_enters_is_seen_with_its_role(table: Table) -> None:
    table.enter(2, 2)
    (row,) = process_rows(table)
    assert (row.number, row.pid, row.role, row.generation, row.asleep) == (2, os.getpid(), "keeper", 1, True)


# --- pool rows -------------------------------------------------------------------------------------------------------


def test_parameters_are_kept_and_too_many_are_refused(table: Table) -> None:
    assert get_parameters(table, 1) == b""
    for messages in (b"S\0\0\0\x0ca\0b\0" * 20, b"x" * PARAMETER_BYTES, b"short"):
        set_parameters(table, 1, messages)
        assert get_parameters(table, 1) == messages
    with pytest.raises(ValueError, match=f"{PARAMETER_BYTES + 1} bytes"):
        set_parameters(table, 1, b"x" * (PARAMETER_BYTES + 1))


def test_the_failure_of_an_opening_is_kept(table: Table) -> None:
    trial = Trial(table, process=0)
    client = trial.admit(1)
    trial.log_in(client, 1)
    _, slot = trial.take(1, client, 2)
    trial.open_failed(slot, 3)
    assert get_failure(table, 1) == ("08006", "no route to host")
    assert trial.reserve(1, 4) == -1, "tried again at once"


def test_a_server_that_opens_ends_the_pause_after_a_failure(table: Table) -> None:
    trial = Trial(table, process=0)
    client, other = trial.admit(1), trial.admit(1)
    for waiter in (client, other):
        trial.log_in(waiter, 1)
    _, failing = trial.take(1, client, 2)
    trial.take(1, other, 3)
    trial.open_failed(failing, 4)  # only `client` waited since before that attempt
    slot = trial.reserve(1, 200_000)
    assert trial.give_back(slot, 200_001) == other
    assert trial.pool_row(1)["failed_at"] == 0


# --- mailboxes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 64, 65, 5000, 65_536])
def test_mail_comes_to_its_receiver_once_and_to_nobody_else(slots: int) -> None:
    table = make(slots)
    me, other = Trial(table, process=0), Trial(table, process=1)
    posted = {slot for slot in (0, 1, 63, 64, 65, 127, 4095, 4096, 4097, 65_535) if slot < slots}
    for slot in posted:
        other.post_mail(0, slot)
        other.post_mail(0, slot)
    assert me.has_mail() and not other.has_mail()
    assert me.mail_of(0) == posted
    assert sorted(me.take_mail()) == sorted(posted)
    assert not me.has_mail() and me.take_mail() == [] and other.take_mail() == []
    table.close()


@pytest.mark.parametrize("slots", [300, 5000])
def test_a_full_mailbox_is_emptied_in_portions(slots: int) -> None:
    table = make(slots)
    me = Trial(table, process=3)
    for slot in range(slots):
        me.post_mail(3, slot)
    assert sorted(me.take_mail()) == list(range(slots))
    table.close()


def test_rows_are_whole_cache_lines() -> None:
    assert {name: size % 64 for name, size in row_sizes().items()} == dict.fromkeys(row_sizes(), 0)
