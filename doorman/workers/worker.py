"""A worker: accepts clients on its own listening socket and serves them with servers of the shared pool."""

from __future__ import annotations

import socket

from doorman.workers.process import Inheritance, Process


class Worker(Process):
    """One of `worker_threads` processes that do the same."""

    def __init__(self, born: Inheritance, tcp: socket.socket | None, unix: socket.socket | None) -> None:
        super().__init__(born)
        if tcp is not None:
            self.relay.listen(tcp.detach(), shared=False)
        if unix is not None:
            self.relay.listen(unix.detach(), shared=True)
