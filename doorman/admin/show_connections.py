"""SHOW commands about connections: CLIENTS, SERVERS, CONNECTIONS, SOCKETS, LISTS, and the statements they share."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from doorman.admin.command import Command, Rows, Sources, host_of, one_row, sorted_pools
from doorman.admin.result import Row, int4, numeric, text
from doorman.config.startup import DEFAULT_APPLICATION_NAME
from doorman.shm.counters import all_process_totals, get_census
from doorman.shm.presence import held_statements, slot_statements
from doorman.shm.rows import ClientView, PoolView, SlotView, client_rows, pool_rows, slot_rows
from doorman.shm.table import Table, monotonic_us

SECOND_US: Final = 1_000_000
PREVIEW: Final = 120

# SHOW CLIENTS

CLIENT_COLUMNS: Final = (
    text("client_id"),
    text("database"),
    text("user"),
    text("application_name"),
    text("addr"),
    text("tls"),
    text("state"),
    text("wait"),
    numeric("transaction_count"),
    numeric("query_count"),
    numeric("error_count"),
    numeric("age_seconds"),
)
_CLIENT_STATES: Final = {"idle": "idle", "active": "active", "waiting": "waiting"}
"""States of the table that are a logged-in client's, as they are shown."""
_CLIENT_WAITS: Final = {"idle": "read", "active": "idle", "waiting": "idle"}


def clients_rows(sources: Sources) -> Rows:
    """SHOW CLIENTS."""
    now = monotonic_us()
    clients = sorted(client_rows(sources.table), key=lambda client: client.connection_id)
    return [_client_row(client, now) for client in clients if client.state in _CLIENT_STATES]


def _client_row(client: ClientView, now: int) -> Row:
    return (
        f"#c{client.connection_id}",
        client.database,
        client.user,
        client.application_name or DEFAULT_APPLICATION_NAME,
        format_address(client.family, client.address, client.port),
        _truth(client.tls),
        _CLIENT_STATES[client.state],
        _CLIENT_WAITS[client.state],
        client.transactions,
        client.queries,
        client.errors,
        _age_seconds(client.connected_at, now),
    )


def format_address(family: int, address: bytes, port: int) -> str:
    """`1.2.3.4:5`, `[::1]:5`, or `127.0.0.1:0` for a Unix socket. `family` is 4, 6 or 0."""
    if family == 4:
        return f"{socket.inet_ntop(socket.AF_INET, address[:4])}:{port}"
    if family == 6:
        return f"[{socket.inet_ntop(socket.AF_INET6, address)}]:{port}"
    return "127.0.0.1:0"


# SHOW SERVERS

SERVER_COLUMNS: Final = (
    text("server_id"),
    text("server_process_id"),
    text("database_name"),
    text("user"),
    text("application_name"),
    text("tls"),
    text("state"),
    text("wait"),
    numeric("transaction_count"),
    numeric("query_count"),
    numeric("bytes_sent"),
    numeric("bytes_received"),
    numeric("age_seconds"),
    numeric("prepare_cache_hit"),
    numeric("prepare_cache_miss"),
    numeric("prepare_cache_size"),
)
_SERVER_STATES: Final = {
    "opening": "login",
    "idle": "idle",
    "active": "active",
    "granted": "active",
    "resetting": "active",
    "closing": "closing",
}
_SERVER_WAITS: Final = {"login": "read", "active": "read", "idle": "idle", "closing": "idle"}


def servers_rows(sources: Sources) -> Rows:
    """SHOW SERVERS."""
    now = monotonic_us()
    pools = {pool.number: pool for pool in pool_rows(sources.table)}
    found = [(pools[slot.pool], slot) for slot in slot_rows(sources.table) if slot.pool in pools]
    found.sort(key=lambda pair: (pair[0].database, pair[0].user, pair[1].number))
    return [_server_row(sources.table, pool, slot, now) for pool, slot in found if slot.state in _SERVER_STATES]


def _server_row(table: Table, pool: PoolView, slot: SlotView, now: int) -> Row:
    state = _SERVER_STATES[slot.state]
    return (
        format_server_id(slot.number, slot.generation),
        str(slot.backend_pid),
        pool.database,
        pool.user,
        slot.application_name or "Undefined",
        _truth(slot.tls),
        state,
        _SERVER_WAITS[state],
        slot.transactions,
        slot.queries,
        slot.bytes_sent,
        slot.bytes_received,
        _age_seconds(slot.opened_at, now),
        *slot_statements(table, slot.number),
    )


def format_server_id(slot: int, generation: int) -> str:
    """`0x` and eight digits: four for the slot (there are at most 65,536), four for the connection that it holds."""
    return f"0x{slot & 0xFFFF:04X}{generation & 0xFFFF:04X}"


def _truth(flag: bool) -> str:
    return "true" if flag else "false"


def _age_seconds(since: int, now: int) -> int:
    return max(0, now - since) // SECOND_US


# SHOW CONNECTIONS, LISTS, SOCKETS

CONNECTION_COLUMNS: Final = tuple(numeric(name) for name in ("total", "errors", "tls", "plain", "cancel"))


def connections_rows(sources: Sources) -> Rows:
    """SHOW CONNECTIONS: since the pooler started."""
    total = all_process_totals(sources.table)
    errors = total.connections - total.encrypted - total.plain - total.cancels
    return one_row(total.connections, max(errors, 0), total.encrypted, total.plain, total.cancels)


LIST_COLUMNS: Final = (text("list"), int4("items"))


def lists_rows(sources: Sources) -> Rows:
    """SHOW LISTS. The console counts as a database, a user and a pool."""
    pools = pool_rows(sources.table)
    states = [client.state for client in client_rows(sources.table)]
    hosts = {pool.server_host for pool in sources.pools if is_name(pool.server_host)}
    return [
        ("databases", len(pools) + 1),
        ("users", len(pools) + 1),
        ("pools", len(pools) + 1),
        ("free_clients", states.count("idle")),
        ("used_clients", states.count("active") + states.count("waiting")),
        ("login_clients", states.count("login")),
        ("free_servers", sum(pool.idle for pool in pools)),
        ("used_servers", sum(pool.busy for pool in pools)),
        ("dns_names", len(hosts)),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ]


def is_name(host: str) -> bool:
    """Must this host be looked up, or is it an address or a directory?"""
    if host.startswith("/"):
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return False
    return True


TCP_STATES: Final = (
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
    "bound_inactive",
)
"""By the kernel's numbers from 1 on (include/net/tcp_states.h)."""
UNIX_KINDS: Final = (
    "unix_free",
    "unix_unconnected",
    "unix_connecting",
    "unix_connected",
    "unix_disconnecting",
    "unix_dgram",
    "unix_seq_packet",
    "unknown",
)
_LAST_TWO: Final = ("new_syn_recv", "bound_inactive")
SOCKET_COLUMNS: Final = (
    *(numeric(f"tcp_{state}") for state in TCP_STATES),
    *(numeric(f"tcp_{state}" if state in _LAST_TWO else f"tcp6_{state}") for state in TCP_STATES),
    *(numeric(kind) for kind in UNIX_KINDS),
)


def sockets_rows(sources: Sources) -> Rows:
    """SHOW SOCKETS: what the keeper counted last."""
    return [get_census(sources.table)]


# SHOW DNS_HOSTS

DNS_COLUMNS: Final = (text("hostname"), numeric("ttl"), text("addrs"))


def dns_rows(sources: Sources) -> Rows:
    """SHOW DNS_HOSTS: host names of servers and where their connections go. Names are looked up for each connection,
    nothing is remembered: hence ttl 0."""
    addresses: dict[str, set[str]] = {}
    for (host, _), found in host_of(sources).server_addresses().items():
        if is_name(host):
            addresses.setdefault(host, set()).update(found)
    return [(host, 0, ",".join(sorted(found))) for host, found in sorted(addresses.items())]


# SHOW PREPARED_STATEMENTS and INTERNER

PREPARED_COLUMNS: Final = (
    text("pool"),
    numeric("hash"),
    text("name"),
    text("query"),
    numeric("count_used"),
    text("kind"),
)


def prepared_rows(sources: Sources) -> Rows:
    """SHOW PREPARED_STATEMENTS: what the servers of each pool have prepared. The text is what this worker knows of it:
    texts are not in the table. `count_used` is the number of servers that hold the statement."""
    texts = dict(host_of(sources).known_statements())
    rows: Rows = []
    for pool in sorted_pools(sources.table):
        held = held_statements(sources.table, pool.number)
        for digest, servers in sorted(held.items()):
            query = texts.get(digest, b"").decode("utf-8", "replace")
            row = (f"{pool.user}@{pool.database}", digest >> 64, f"DOORMAN_{digest:032x}", query, servers, "mixed")
            rows.append(row)
    return rows


INTERNER_COLUMNS: Final = (text("kind"), numeric("entries"), numeric("bytes"))
INTERNER_TOP_COLUMNS: Final = (text("hash"), text("kind"), numeric("bytes"), numeric("idle_ms"), text("query"))


def show_interner(words: tuple[str, ...]) -> Command:
    """SHOW INTERNER, or SHOW INTERNER n: the n longest texts that this worker remembers."""
    if len(words) > 2 and words[2].isdigit():
        return Command(INTERNER_TOP_COLUMNS, _longest_texts(int(words[2])))
    return Command(INTERNER_COLUMNS, _interner_rows)


def _interner_rows(sources: Sources) -> Rows:
    total = all_process_totals(sources.table)
    return [("named", total.texts, total.text_bytes), ("anonymous", 0, 0)]


def _longest_texts(count: int) -> Callable[[Sources], Rows]:
    def rows(sources: Sources) -> Rows:
        known = sorted(host_of(sources).known_statements(), key=lambda pair: len(pair[1]), reverse=True)
        return [
            (f"0x{digest >> 64:016x}", "named", len(query), -1, query.decode("utf-8", "replace")[:PREVIEW])
            for digest, query in known[:count]
        ]

    return rows
