"""The line about sockets: everything that SHOW SOCKETS counts is in it once."""

from __future__ import annotations

import re

from doorman.admin.show_connections import SOCKET_COLUMNS
from doorman.workers.pool_summary import summarize_sockets

SHAPE = (
    "[sockets] tcp= tcp4= tcp6= | tcp_est= tcp_lstn= tcp_tw= tcp_fw1= tcp_fw2= tcp_cw= tcp_la= tcp_syns= tcp_synr= "
    "tcp_nsr= tcp_clsg= tcp_cls= tcp_bnd= | unix= unix_conn= unix_uncn= unix_cng= unix_dcn= unix_free= | dgram= "
    "seqpkt= unknown="
)


def test_the_line_has_the_shape_that_people_search_and_loses_no_socket() -> None:
    census = [1 << number for number in range(len(SOCKET_COLUMNS))]
    line = summarize_sockets(census)
    assert re.sub(r"\d+(?= |$)", "", line) == SHAPE
    found = dict(re.findall(r"(\w+)=(\d+)", line))
    assert int(found["tcp"]) + int(found["unix"]) + sum(
        int(found[name]) for name in ("dgram", "seqpkt", "unknown")
    ) == (sum(census))
    assert int(found["tcp_est"]) == census[0] + census[13] and int(found["unix_conn"]) == census[29]
    states = [int(count) for name, count in found.items() if re.match(r"tcp_", name)]
    assert sum(states) == int(found["tcp"])
