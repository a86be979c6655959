"""The columns of every SHOW as tools read them: names, order, types. Ours come only behind those of the reference."""

from __future__ import annotations

import pytest

from doorman.admin import show
from doorman.admin.show_connections import INTERNER_COLUMNS, INTERNER_TOP_COLUMNS
from doorman.wire.backend import Column

TEXT, INT4, NUMERIC = 25, 23, 1700
LENGTHS = {TEXT: -1, INT4: 4, NUMERIC: -1}


def columns(text: str) -> list[tuple[str, int]]:
    """`name t` (text), `name i` (int4) or `name` (numeric), one behind the other."""
    found: list[tuple[str, int]] = []
    for word in text.split():
        name, _, kind = word.partition(":")
        found.append((name, {"": NUMERIC, "t": TEXT, "i": INT4}[kind]))
    return found


TCP = [
    *("established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait", "close", "close_wait", "last_ack"),
    *("listen", "closing", "new_syn_recv", "bound_inactive"),
]
SOCKETS = [f"tcp_{state}" for state in TCP] + [f"tcp6_{state}" for state in TCP[:11]] + [f"tcp_{s}" for s in TCP[11:]]
WANTED = {
    "HELP": "item:t",
    "CONFIG": "key:t value:t default:t changeable:t",
    "DATABASES": "name:t host:t port:t database:t force_user:t pool_size:i min_pool_size:i reserve_pool:i pool_mode:t "
    "max_connections:i current_connections:i",
    "POOLS": "database:t user:t pool_mode:t cl_idle cl_active cl_waiting cl_cancel_req sv_active sv_idle sv_used "
    "sv_login pool_size maxwait maxwait_us avg_xact_time paused:t fallback_active:t oldest_active_age_ms",
    "POOLS_EXTENDED": "database:t user:t cl_active cl_waiting sv_active sv_idle sv_used sv_login pool_size maxwait "
    "maxwait_us pool_mode:t bytes_recieved bytes_sent query_0.99 transaction_0.99 query_0.95 transaction_0.95 "
    "query_0.5 transaction_0.5",
    "POOLS_MEMORY": "database:t user:t pool_prepared_count pool_prepared_bytes client_prepared_count "
    "client_prepared_bytes client_named_count client_anonymous_count client_anonymous_evictions_alive async_clients",
    "POOL_COORDINATOR": "database:t max_db_conn current reserve_size reserve_used evictions reserve_acq exhaustions",
    "POOL_SCALING": "user:t database:t inflight creates gate_waits gate_budget_ex antic_notify antic_timeout "
    "create_fallback replenish_def",
    "PREPARED_STATEMENTS": "pool:t hash name:t query:t count_used kind:t",
    "CLIENTS": "client_id:t database:t user:t application_name:t addr:t tls:t state:t wait:t transaction_count "
    "query_count error_count age_seconds",
    "SERVERS": "server_id:t server_process_id:t database_name:t user:t application_name:t tls:t state:t wait:t "
    "transaction_count query_count bytes_sent bytes_received age_seconds prepare_cache_hit prepare_cache_miss "
    "prepare_cache_size",
    "CONNECTIONS": "total errors tls plain cancel",
    "STATS": "database:t user:t total_xact_count total_query_count total_received total_sent total_xact_time "
    "total_query_time total_wait_time total_errors avg_xact_count avg_query_count avg_recv avg_sent avg_errors "
    "avg_xact_time avg_query_time avg_wait_time",
    "VERSION": "version:t",
    "USERS": "name:t pool_mode:t",
    "AUTH_QUERY": "database:t cache_entries cache_hits cache_misses cache_refetches cache_rate_limited auth_success "
    "auth_failure executor_queries executor_errors dynamic_pools_current dynamic_pools_created dynamic_pools_destroyed",
    "STARTUP_PARAMETERS": "user:t database:t parameter:t value:t source:t state:t",
    "LOG_LEVEL": "log_level:t",
    "LISTS": "list:t items:i",
    "SOCKETS": f"{' '.join(SOCKETS)} unix_free unix_unconnected unix_connecting unix_connected unix_disconnecting "
    "unix_dgram unix_seq_packet unknown",
}


def shown(found: tuple[Column, ...]) -> list[tuple[str, int]]:
    assert all(column.typlen == LENGTHS[column.oid] for column in found)
    return [(column.name, column.oid) for column in found]


@pytest.mark.parametrize("name", WANTED)
def test_columns_are_those_that_tools_read(name: str) -> None:
    wanted = columns(WANTED[name])
    assert shown(show.SHOWS[name].columns)[: len(wanted)] == wanted


def test_columns_of_the_interner() -> None:
    assert shown(INTERNER_COLUMNS) == columns("kind:t entries bytes")
    assert shown(INTERNER_TOP_COLUMNS) == columns("hash:t kind:t bytes idle_ms query:t")


def test_nothing_of_the_reference_is_missing() -> None:
    assert list(show.SHOWS)[: len(WANTED) + 1] == [*list(WANTED)[:9], "INTERNER", *list(WANTED)[9:]]
    assert len(SOCKETS) == 26
