"""What the keeper logs after each statistics window: a line about each pool, one about sockets. Their shape is stable:
people search them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from doorman.admin.show_connections import TCP_STATES, UNIX_KINDS
from doorman.shm.counters import pool_averages, pool_percentiles
from doorman.shm.rows import PoolView
from doorman.shm.table import Table

Clients = Counter[tuple[int, str]]
"""How many clients are in (pool row, state)."""


def summarize_pool(table: Table, pool: PoolView, clients: Clients) -> str:
    """`[user@db] qps=… tps=… | clients=… | servers=… | query_ms p50=… | xact_ms … | wait_ms … | avg_wait=…ms`."""
    averages, percentiles = pool_averages(table, pool.number), pool_percentiles(table, pool.number)
    count = {state: clients[pool.number, state] for state in ("login", "idle", "active", "waiting")}
    return " | ".join(
        (
            f"[{pool.user}@{pool.database}] qps={averages.queries} tps={averages.transactions}",
            f"clients={sum(count.values())} active={count['active']} idle={count['idle']} wait={count['waiting']}",
            f"servers={pool.idle + pool.busy} active={pool.busy} idle={pool.idle}",
            f"query_ms {_show(percentiles.query)}",
            f"xact_ms {_show(percentiles.transaction)}",
            f"wait_ms {_show(percentiles.wait)}",
            f"avg_wait={averages.wait_us / 1000:.3f}ms",
        )
    )


def summarize_sockets(census: Sequence[int]) -> str:
    """`[sockets] tcp=… tcp4=… | tcp_est=… | unix=… | dgram=…`; `census` is in the order of SHOW SOCKETS."""
    states = len(TCP_STATES)
    four, six = dict(zip(TCP_STATES, census, strict=False)), dict(zip(TCP_STATES, census[states:], strict=False))
    unix = dict(zip(UNIX_KINDS, census[2 * states :], strict=True))
    tcp4, tcp6 = sum(four.values()), sum(six.values())
    streams = sum(unix[state] for state in UNIX_NAMES)
    return " | ".join(
        (
            f"[sockets] tcp={tcp4 + tcp6} tcp4={tcp4} tcp6={tcp6}",
            " ".join(f"tcp_{name}={four[state] + six[state]}" for state, name in TCP_NAMES.items()),
            f"unix={streams} " + " ".join(f"{name}={unix[state]}" for state, name in UNIX_NAMES.items()),
            f"dgram={unix['unix_dgram']} seqpkt={unix['unix_seq_packet']} unknown={unix['unknown']}",
        )
    )


TCP_NAMES = {
    "established": "est",
    "listen": "lstn",
    "time_wait": "tw",
    "fin_wait1": "fw1",
    "fin_wait2": "fw2",
    "close_wait": "cw",
    "last_ack": "la",
    "syn_sent": "syns",
    "syn_recv": "synr",
    "new_syn_recv": "nsr",
    "closing": "clsg",
    "close": "cls",
    "bound_inactive": "bnd",
}
UNIX_NAMES = {
    "unix_connected": "unix_conn",
    "unix_unconnected": "unix_uncn",
    "unix_connecting": "unix_cng",
    "unix_disconnecting": "unix_dcn",
    "unix_free": "unix_free",
}


def _show(percentiles_us: tuple[int, ...]) -> str:
    values = zip(("p50", "p90", "p95", "p99"), percentiles_us, strict=False)
    return " ".join(f"{name}={value / 1000:.2f}" for name, value in values)
