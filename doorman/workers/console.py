"""A console on the wire, and what it may ask of its process. Runs in workers.

Rules
1. A console that waits holds nothing up: its client is suspended, and the process asks it ten times a second.
2. An order that concerns all processes goes to the master, or stands in the shared table; no other worker is asked.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from doorman import __version__
from doorman.admin.command import Sources
from doorman.admin.console import Console, ConsoleAnswer
from doorman.admin.orders import Order, OrderResult
from doorman.log import shown_filter
from doorman.shm.rows import server_peers

if TYPE_CHECKING:
    from doorman.config.schema import Config
    from doorman.workers.process import Process
    from doorman.workers.relay.engine import Client


class ConsoleSession:
    """The session of one client."""

    def __init__(self, process: Process, client: Client, *, is_admin: bool) -> None:
        self.process = process
        self.client = client
        sources = Sources(process.table, process.pools, __version__, ProcessHost(process))
        self.console = Console(sources, is_admin=is_admin)

    def feed(self, data: bytes) -> int:
        """Take what the client sent; how many bytes were used."""
        consumed = 0
        has_more = True
        while has_more and not self.client.is_gone:
            answer = self.console.feed(data[consumed:])
            consumed += answer.consumed
            has_more = answer.has_more
            self.deliver(answer)
        return consumed

    def deliver(self, answer: ConsoleAnswer) -> None:
        """Do what the console says."""
        if answer.output:
            self.process.relay.send(self.client, answer.output)
        if answer.ended:
            self.process.relay.end(self.client)
        elif answer.waiting:
            self.process.relay.suspend(self.client)
            self.process.waiting_consoles.add(self)
        elif answer.order is not None:
            self.process.relay.suspend(self.client)
            self.process.spawn(self.carry_out(answer.order))

    async def carry_out(self, order: Order) -> None:
        """Have the master do what the administrator wants; the session goes on when it is done."""
        result = await self.process.order(order)
        self.process.relay.resume(self.client, lambda: self.finish(result))

    def finish(self, result: OrderResult) -> None:
        """Answer an order, and run what stands behind it in the same Query."""
        self.console.finish_order(result)
        self.feed(b"")

    def look(self) -> None:
        """Rule 1. Whether the client is still there is the relay's to notice."""
        answer = self.console.poll()
        if answer.waiting:
            return
        self.stop_waiting()
        self.process.relay.resume(self.client, lambda: self.go_on(answer))

    def go_on(self, answer: ConsoleAnswer) -> None:
        """What the command waited for has come; more statements of the same Query may follow."""
        self.deliver(answer)
        if answer.has_more:
            self.feed(b"")

    def stop_waiting(self) -> None:
        """Also when the client is gone."""
        self.process.waiting_consoles.discard(self)


class ProcessHost:
    """The process as its consoles see it (admin.command.Host)."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def config(self) -> Config:
        return self.process.config

    def wake(self, processes: int) -> None:
        self.process.relay.wake_processes(processes)

    def known_statements(self) -> list[tuple[int, bytes]]:
        return self.process.relay.known_statements()

    def forget_statements(self) -> None:
        self.process.relay.forget_statements()

    def log_level(self) -> str:
        return shown_filter()

    def server_addresses(self) -> dict[tuple[str, int], set[str]]:
        """Host and port of the live pools, and where the servers of those that are names have been found."""
        found: dict[tuple[str, int], set[str]] = {}
        for pool in self.process.pools:
            found.setdefault((pool.server_host, pool.server_port), set())
        for row, peer in server_peers(self.process.table):
            settings = self.process.pools[row]
            found.setdefault((settings.server_host, settings.server_port), set()).add(str(ip_address(peer)))
        return found
