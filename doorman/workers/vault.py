"""The vault: a duplicate of every server's socket. The master keeps it so that every process can have one.

Rules
1. Whoever opens a server publishes its socket, by a deposit (channel, rule 3), before it says a word to PostgreSQL:
   should it die, the connection can be ended and its end be waited for. Another process that comes to use that server
   asks for a duplicate (Want), once; later processes are born with all there are. Most servers are never used by a
   second process in their life, and to wake a process for them costs more than the rest of a login.
2. Whether there is no such socket is known only when every channel has been read after the question.
3. When a server connection is over whoever has a duplicate is told to forget it, the vault first. A process tells it
   ten times a second: its last words about a connection may be lost with it, so its end is followed by a look at what
   the table has no connection for any more.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from doorman.shm.rows import slot_generations
from doorman.workers.channel import Forget, Publish, Want, close_all

if TYPE_CHECKING:
    from doorman.workers.master import Child, Master

log = logging.getLogger(__name__)

COMPLAINT_SECONDS = 5.0


class Vault:
    """The master's sockets of servers, by slot and generation."""

    def __init__(self, master: Master) -> None:
        self.master = master
        self.sockets: dict[tuple[int, int], int] = {}
        self.holders: dict[tuple[int, int], set[int]] = {}  # rows of the processes that have a duplicate
        self.unanswered: list[tuple[Child, Want]] = []
        self.complained_at = 0.0

    def publish(self, child: Child, message: Publish, descriptors: list[int]) -> None:
        """A new server: keep a duplicate for whoever will ask for it."""
        if not descriptors:
            self.complain("no file descriptor was left to take over a server connection (raise LimitNOFILE)")
            self.master.tell(child, Want(message.slot, message.generation))
            return
        close_all(descriptors[1:])
        key = (message.slot, message.generation)
        if key in self.sockets or slot_generations(self.master.table, [message.slot]) != [message.generation]:
            os.close(descriptors[0])
            return
        self.sockets[key] = descriptors[0]
        self.holders[key] = {child.row}

    def answer_wants(self) -> None:
        """Send the sockets that were asked for. Whether there is none is known only when every channel has been read
        since: the asker may have heard of a server, through the table, before its Publish was. So what is asked for
        meanwhile waits for the next time: the Publish may be in a channel that was read before it came."""
        if not self.unanswered or self.master.deaf_until is not None:
            return
        wants, self.unanswered = self.unanswered, []
        for child in list(self.master.children.values()):
            self.master.read_all(child)
            self.master.collect(child)
        if self.master.deaf_until is not None:  # not all could be read
            self.unanswered += wants
            return
        for child, message in wants:
            if child.channel.fileno() in self.master.children:
                self.give(child, message)

    def give(self, child: Child, message: Want) -> None:
        """Send the socket; that there is none is said by Forget."""
        key = (message.slot, message.generation)
        fd = self.sockets.get(key)
        if fd is None:
            self.master.tell(child, Forget([key]))
        else:
            self.holders[key].add(child.row)
            self.master.tell(child, Publish(message.slot, message.generation), fd)

    def forget(self, over: Iterable[tuple[int, int]], but: Child | None = None) -> None:
        """Server connections are over everywhere."""
        by_holder: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for key in over:
            fd = self.sockets.pop(key, None)
            if fd is None:
                continue
            os.close(fd)
            for row in self.holders.pop(key):
                by_holder[row].append(key)
        for child in list(self.master.children.values()):
            if child is not but and child.row in by_holder:
                self.master.tell(child, Forget(by_holder[child.row]))

    def note_birth(self, row: int) -> None:
        """A child is being forked: it has what there is."""
        for rows in self.holders.values():
            rows.add(row)

    def note_death(self, row: int) -> None:
        """A child is gone and the table repaired: rule 3."""
        for rows in self.holders.values():
            rows.discard(row)
        generations = slot_generations(self.master.table, [slot for slot, _ in self.sockets])
        known = zip(self.sockets, generations, strict=True)
        self.forget([key for key, generation in known if key[1] != generation])

    def complain(self, what: str) -> None:
        """Log an error that may come thousands of times a second, at most once in five seconds."""
        now = time.monotonic()
        if now - self.complained_at >= COMPLAINT_SECONDS:
            self.complained_at = now
            log.error("%s", what)
