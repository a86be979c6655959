"""The vault: a duplicate of every server's socket. The master keeps it so that every process can have one.

Rules
1. Whoever opens a server publishes its socket; all others are sent a duplicate, and later ones are born with it.
2. A process that lacks one asks for it (Want). Whether there is none is known only when every channel has been read.
3. When a server connection is over everybody is told to forget it, the vault first.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

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
        self.unanswered: list[tuple[Child, Want]] = []
        self.complained_at = 0.0

    def publish(self, child: Child, message: Publish, descriptors: list[int]) -> None:
        """A new server: keep a duplicate and give one to everybody else."""
        if not descriptors:
            self.complain("no file descriptor was left to take over a server connection (raise LimitNOFILE)")
            self.master.tell(child, Want(message.slot, message.generation))
            return
        close_all(descriptors[1:])
        key = (message.slot, message.generation)
        if key in self.sockets:
            os.close(descriptors[0])
            return
        self.sockets[key] = descriptors[0]
        for other in list(self.master.children.values()):
            if other is not child:
                self.master.tell(other, message, descriptors[0])

    def answer_wants(self) -> None:
        """Send the sockets that were asked for. Whether there is none is known only when every channel has been read:
        the asker may have heard of a server, through the table, before its Publish was."""
        if not self.unanswered:
            return
        for child in list(self.master.children.values()):
            self.master.read_all(child)
        wants, self.unanswered = self.unanswered, []
        for child, message in wants:
            if child.channel.fileno() in self.master.children:
                self.give(child, message)

    def give(self, child: Child, message: Want) -> None:
        """Send the socket; that there is none is said by Forget."""
        fd = self.sockets.get((message.slot, message.generation))
        if fd is None:
            self.master.tell(child, Forget(message.slot, message.generation))
        else:
            self.master.tell(child, Publish(message.slot, message.generation), fd)

    def forget(self, slot: int, generation: int, but: Child | None = None) -> None:
        """A server connection is over everywhere."""
        fd = self.sockets.pop((slot, generation), None)
        if fd is not None:
            os.close(fd)
        for child in list(self.master.children.values()):
            if child is not but:
                self.master.tell(child, Forget(slot, generation))

    def complain(self, what: str) -> None:
        """Log an error that may come thousands of times a second, at most once in five seconds."""
        now = time.monotonic()
        if now - self.complained_at >= COMPLAINT_SECONDS:
            self.complained_at = now
            log.error("%s", what)
