"""A worker: accepts clients on its own listening sockets and serves them with servers of the shared pool."""

from __future__ import annotations

import socket

from doorman.workers.listener import Handovers
from doorman.workers.process import Inheritance, Process


class Worker(Process):
    """One of `worker_threads` processes that do the same."""

    def __init__(
        self, born: Inheritance, tcp: list[socket.socket], unix: socket.socket | None, handovers: Handovers
    ) -> None:
        super().__init__(born)
        self.handovers = handovers  # its sockets close with it
        self.relay.share_clients(*handovers.of_worker(born.row))
        for sock in tcp:
            self.relay.listen(sock.detach(), shared=False)
        if unix is not None:
            self.relay.listen(unix.detach(), shared=True)
