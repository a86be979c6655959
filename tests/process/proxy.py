"""A TCP proxy between pg_doorman and PostgreSQL that can be slow, fall silent, or cut every connection.

Runs in threads of the test's process, so that blocking test code does not stop it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.harness import Postgres


class Proxy:
    """`delay`: seconds before a new connection gets through. While `flow` is cleared nothing passes."""

    def __init__(self, target: Postgres) -> None:
        self.target = target
        self.delay = 0.0
        self.flow = threading.Event()
        self.flow.set()
        self.accepted = 0
        self.is_over = False
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.listener.getsockname()[1]
        self.open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over = True
        self.listener.close()
        self.flow.set()
        self.cut()

    @property
    def pool(self) -> dict[str, object]:
        """Where a pool must connect to."""
        return {"server_host": "127.0.0.1", "server_port": self.port}

    def cut(self) -> None:
        """End every connection, both sides."""
        for sock in list(self.open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self.delay), daemon=True).start()
            self.accepted += 1

    def _serve(self, client: socket.socket, delay: float) -> None:
        self.open.add(client)
        self._wait(delay)
        if self.is_over:
            return self._end(client)
        try:
            server = socket.create_connection((self.target.host, self.target.port))
        except OSError:
            return self._end(client)
        self.open.add(server)
        back = threading.Thread(target=self._copy, args=(server, client, True), daemon=True)
        back.start()
        self._copy(client, server)
        back.join()
        self._end(client)
        self._end(server)

    def _copy(self, source: socket.socket, sink: socket.socket, is_answer: bool = False) -> None:
        """Until the end of the stream, which is passed on too. is_answer: it comes from PostgreSQL."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flow.wait()
                passed = self.cut_answer(data) if is_answer else self.cut_request(data)
                sink.sendall(passed)
                if len(passed) < len(data):
                    return self._end_both(source, sink)
        self.flow.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def cut_answer(self, data: bytes) -> bytes:
        """What of PostgreSQL's bytes is let through; when it is not all, the connection ends behind it."""
        return data

    def cut_request(self, data: bytes) -> bytes:
        """Likewise of the pooler's."""
        return data

    def _end_both(self, *socks: socket.socket) -> None:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self.is_over and (time.monotonic() < until or not self.flow.is_set()):
            time.sleep(0.005)

    def _end(self, sock: socket.socket) -> None:
        self.open.discard(sock)
        sock.close()
