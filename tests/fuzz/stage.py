"""A real relay on a real table in this process, with the far ends of its clients and servers in the hands of a script.

`Stage` plays what is outside of the relay: uvloop (`round`), the Python side of a worker (`Host`), PostgreSQL's and the
applications' sockets (`far ends`). Nothing of the relay is replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import socket
from collections import deque
from types import SimpleNamespace
from typing import Any

from doorman.shm.rows import set_up_pool
from doorman.shm.table import Table
from doorman.shm.trial import Trial
from doorman.tls.record import RecordLayer, private_layer, slot_layer
from doorman.tls.schedule import Session, traffic_keys
from doorman.tls.suites import BY_NUMBER, TLS_1_3
from doorman.wire.backend import parameter_status
from doorman.workers.relay.relay import Relay
from doorman.workers.settings import Settings, make_settings
from tests.simulate.invariants import check_table

RENAMES, PLAIN, SESSION = range(3)  # the pools of a stage
CHECK_QUERY = ";"
PARAMETERS = parameter_status("TimeZone", "UTC") + parameter_status("server_version", "18")
SECRET = b"0123456789abcdef"
SUITE = BY_NUMBER[0x1301]
PIECES = 32  # of a long message
QUIET_ROUNDS = 400  # more rounds than this without a byte moved: the relay spins


class Spins(AssertionError):
    """The relay is woken again and again and gets nothing done."""


class Complaints(logging.Handler):
    """Whatever the relay logs as an error is a finding."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


COMPLAINTS = Complaints()
log = logging.getLogger("doorman.relay")
log.addHandler(COMPLAINTS)
log.propagate = False


def find_clock() -> Any:
    """The clock of an instrumented build; None in an ordinary one, where time cannot be made to pass."""
    library = os.environ.get("DOORMAN_FUZZER")
    if not library:
        return None
    advance = ctypes.CDLL(library).doorman_clock_advance
    advance.argtypes = [ctypes.c_int64]
    advance.restype = None
    return advance


advance_clock = find_clock()


def make_session(*, is_relay: bool) -> Session:
    """What the relay, or the far end, has of an encrypted connection after its handshake."""
    ways = [traffic_keys(SUITE, bytes((seed,)) * 32) for seed in (1, 2)]
    inbound, outbound = ways if is_relay else ways[::-1]
    return Session(TLS_1_3, SUITE.number, inbound, outbound)


class FarEnd:
    """The socket of an application or of a PostgreSQL, and what came on it. With a `layer` what it writes is encrypted,
    and what comes is from `opens` on."""

    def __init__(self, sock: socket.socket) -> None:
        self.layer: RecordLayer | None = None
        self.opens = False
        sock.setblocking(False)
        self.sock = sock
        self.received = bytearray()
        self.unsent: deque[bytes] = deque()
        self.reads = True
        self.is_open = True  # this side
        self.is_ended = False  # the relay's side
        self.hangs_up = False  # when all is written
        self.chop = 0  # bytes of one write, of a long message more; 0: as many as there are

    def write(self, data: bytes) -> None:
        """Now or when there is room."""
        if data and self.is_open and not self.hangs_up:
            self.unsent.append(data if self.layer is None else self.layer.seal_bytes(data))

    def move(self) -> int:
        """Write what waits, read what came. How many bytes moved."""
        return self.flush() + (self.read() if self.reads else 0)

    def flush(self) -> int:
        moved = 0
        while self.unsent and self.is_open:
            try:
                most = max(self.chop, len(self.unsent[0]) // PIECES) if self.chop else None
                sent = self.sock.send(self.unsent[0][:most])
            except BlockingIOError:
                break
            except OSError:
                self.unsent.clear()
                break
            moved += sent
            if sent < len(self.unsent[0]):
                self.unsent[0] = self.unsent[0][sent:]
            else:
                self.unsent.popleft()
            if self.chop:
                break
        if self.hangs_up and not self.unsent:
            self.close()
        return moved

    def read(self) -> int:
        moved = 0
        while self.is_open and not self.is_ended:
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.is_ended = not data
            self.received += self.layer.open_bytes(data) if self.layer is not None and self.opens else data
            assert self.layer is None or not self.layer.fault, "the relay wrote what cannot be opened"
            moved += len(data) or 1
        return moved

    def end_writing(self) -> None:
        """Half of a close."""
        if self.is_open:
            if self.layer is not None and not self.unsent:
                with contextlib.suppress(OSError):
                    self.sock.send(self.layer.farewell())
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.sock.close()


class ServerEnd(FarEnd):
    """PostgreSQL's end of slot `slot`."""

    def __init__(self, sock: socket.socket, pool: int, slot: int, generation: int) -> None:
        super().__init__(sock)
        self.opens = True
        self.pool = pool
        self.slot = slot
        self.generation = generation


class ClientEnd(FarEnd):
    """An application that asked for `pool` with `settings`."""

    def __init__(self, sock: socket.socket, pool: int, settings: Settings | None) -> None:
        super().__init__(sock)
        self.pool = pool
        self.settings = settings


class Login:
    """Takes one byte and lets the client in."""

    def is_shaking(self) -> bool:
        """No handshake."""
        return False

    def __init__(self, stage: Stage, client: Any, end: ClientEnd | None) -> None:
        self.stage = stage
        self.client = client
        self.end = end

    def feed(self, data: bytes) -> int:
        """The byte may not come twice: while the client waits for a server its bytes stay where they are."""
        end, self.end = self.end, None
        if end is None:
            return 0
        if self.client.number < 0:
            self.stage.relay.dismiss(self.client, b"E\0\0\0\x05\0")
            return 1
        if end.layer is not None:
            end.opens = True
            self.stage.relay.start_tls(self.client, make_session(is_relay=True), data[1:])
        self.stage.relay.log_in(
            self.client, end.pool, generation=0, settings=end.settings, cancel_secret=SECRET, application_name=b"fuzz"
        )
        return 1 if end.layer is None else len(data)

    def greet(self, parameters: bytes, cancel_pid: int) -> None:
        self.stage.relay.send(self.client, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")


class Host:
    """What the relay asks of Python code; done when the script gets to it, as in a process."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.to_open: deque[tuple[int, int, int]] = deque()
        self.to_cancel: deque[tuple[int, int]] = deque()
        self.wanted: deque[tuple[int, int]] = deque()
        self.vault: dict[tuple[int, int], int] = {}
        settings = SimpleNamespace(
            user="user",
            database="database",
            pooler_check_query=CHECK_QUERY,
            sync_server_parameters=False,
            log_client_parameter_status_changes=True,
        )
        self.pools = [settings] * 3

    def start_login(self, client: Any) -> Login:
        self.stage.make_narrow(client.fd)
        return Login(self.stage, client, self.stage.knocking.popleft())

    def open_server(self, pool: int, slot: int, generation: int) -> None:
        self.to_open.append((pool, slot, generation))

    def publish(self, slot: int, generation: int, fd: int) -> None:
        self.vault[slot, generation] = os.dup(fd)

    def forget(self, slot: int, generation: int) -> None:
        fd = self.vault.pop((slot, generation), None)
        if fd is not None:
            os.close(fd)

    def want(self, slot: int, generation: int) -> None:
        self.wanted.append((slot, generation))

    def look_at_pools(self) -> None:
        pass

    def cancel_server(self, slot: int, generation: int) -> None:
        self.to_cancel.append((slot, generation))

    def client_ended(self, client: Any, session: object) -> None:
        pass

    def login_expired(self, client: Any) -> None:
        pass


class Stage:
    """Set it up, drive it, `close` it."""

    def __init__(
        self, *, pool_size: int = 2, statement_limit: int = 3, cache: int = 4, max_connections: int = 6,
        gather_limit: int = 300_000, cleanup: bool = True, check_after_us: int = 0, tls: bool = False,
        narrow: bool = False, processes: int = 1, clients: int = 8,
    ) -> None:  # fmt: skip
        COMPLAINTS.records.clear()
        self.tls = tls  # clients and servers are encrypted
        self.is_narrow = narrow  # the kernel keeps little of what the relay writes
        self.table = Table.create(
            processes=processes,
            pools=3,
            slots=6,
            clients=clients,
            max_connections=max_connections,
            statements=statement_limit,
        )
        self.table.enter(0, 1)
        for pool in (RENAMES, PLAIN, SESSION):
            set_up_pool(
                self.table, pool, database=f"db{pool}", user="app", session_mode=pool == SESSION,
                pool_size=pool_size, min_pool_size=0, max_opening=2, round_robin=False, check_after_us=check_after_us,
                cleanup=cleanup, statements=pool == RENAMES, statement_limit=statement_limit,
            )  # fmt: skip
        self.trial = Trial(self.table)
        self.host = Host(self)
        self.knocking: deque[ClientEnd] = deque()
        self.clients: list[ClientEnd] = []
        self.servers: list[ServerEnd] = []
        self.refuses_to_open = False
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.relay = Relay(
            self.table, self.host, [self.wake_fd] * processes, query_wait_us=5_000_000, probe_patience_us=1_000_000,
            statements=cache, gather_limit=gather_limit,
        )  # fmt: skip
        self.relay.tells_ends = True
        self.poll = select.epoll.fromfd(os.dup(self.relay.epoll))
        self.listen()

    def listen(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        listener.bind("")  # an abstract address of the kernel's choice
        self.address = listener.getsockname()
        listener.listen(16)
        self.relay.listen(listener.detach(), shared=False)
        self.ticker = os.eventfd(1)  # always readable: `run` returns after each look at the sockets
        self.relay.watch(self.ticker, select.EPOLLIN, lambda events: None)

    # --- what a script does ------------------------------------------------------------------------------------------

    def connect(self, pool: int, settings: dict[str, str] | None = None) -> ClientEnd:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.address)
        end = ClientEnd(sock, pool, make_settings(settings) if settings else None)
        self.knocking.append(end)
        self.clients.append(end)
        end.write(b"\0")
        end.layer = self.make_layer(is_client=True)
        return end

    def make_layer(self, *, is_client: bool) -> RecordLayer | None:
        """A far end's."""
        return private_layer(make_session(is_relay=False), is_client=is_client) if self.tls else None

    def round(self) -> int:
        """One look at the sockets. How many bytes moved at the far ends."""
        moved = sum(end.move() for end in (*self.clients, *self.servers))
        self.relay.run()
        self.attend()
        return moved + sum(end.move() for end in (*self.clients, *self.servers))

    def attend(self) -> None:
        """What the relay left for Python code to do."""
        for _ in range(len(self.host.to_open)):
            self.open(*self.host.to_open.popleft())
        for _ in range(len(self.host.wanted)):
            self.look_for(*self.host.wanted.popleft())
        for _ in range(len(self.host.to_cancel)):
            slot, generation = self.host.to_cancel.popleft()
            self.relay.cancel_key(slot, generation)
            self.relay.cancel_done(slot, generation, doubtful=False)

    def open(self, pool: int, slot: int, generation: int) -> None:
        if self.refuses_to_open:
            self.relay.failed_to_open(slot, "08006", "nobody is there")
            return
        near, far = socket.socketpair()
        near.setblocking(False)
        self.make_narrow(near.fileno())
        end = self.make_server_end(far, pool, slot, generation)
        end.layer = self.make_layer(is_client=False)
        self.servers.append(end)
        self.host.publish(slot, generation, near.fileno())
        layer = slot_layer(self.table, slot, make_session(is_relay=True)) if self.tls else None
        self.relay.opened(
            slot, near.detach(), 1000 + slot, b"secret", PARAMETERS, lifetime_us=0, idle_timeout_us=0, layer=layer
        )  # fmt: skip

    def make_narrow(self, fd: int) -> None:
        if self.is_narrow:
            with socket.socket(fileno=os.dup(fd)) as near:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes 4608 of it

    def make_server_end(self, sock: socket.socket, pool: int, slot: int, generation: int) -> ServerEnd:
        return ServerEnd(sock, pool, slot, generation)

    def look_for(self, slot: int, generation: int) -> None:
        fd = self.host.vault.get((slot, generation))
        if fd is None:
            self.relay.drop(slot, generation)
        else:
            self.relay.adopt(slot, generation, os.dup(fd))

    def tick(self, microseconds: int = 0) -> None:
        """The clock's turn, after this time."""
        if advance_clock is not None and microseconds:
            advance_clock(microseconds)
        self.relay.tick()
        self.attend()

    def settle(self) -> None:
        """Rounds until nothing is ready; raises Spins when that never comes."""
        idle = 0
        while True:
            moved = self.round()
            if not moved and not self.is_busy():
                return
            idle = 0 if moved else idle + 1
            if idle > QUIET_ROUNDS:
                raise Spins(f"{self.ready()} stay ready")

    def is_busy(self) -> bool:
        host = self.host
        return bool(host.to_open or host.wanted or host.to_cancel or self.ready())

    def ready(self) -> list[tuple[int, int]]:
        return [(fd, events) for fd, events in self.poll.poll(0) if fd not in (self.ticker, self.wake_fd)]

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """All far ends close: then no client row and no slot may be left, and nothing may have been logged."""
        for end in self.clients:
            end.close()
        self.settle()
        for server in self.servers:
            server.close()
        self.settle()
        self.tick()
        self.settle()
        check_table(self.trial)
        states = [self.trial.slot_row(slot)["state"] for slot in range(self.table.slot_count)]
        assert not any(states), f"slots are left in states {states}"
        assert self.trial.header_row()["clients_used"] == 0, "a client row leaked"
        assert not self.host.vault, "a server was never forgotten"

    def check(self) -> None:
        """Between two steps."""
        assert not COMPLAINTS.records, COMPLAINTS.records[0]

    def close(self) -> None:
        for end in (*self.clients, *self.servers):
            end.close()
        for fd in self.host.vault.values():
            os.close(fd)
        self.relay.stop_accepting()
        self.poll.close()
        del self.relay  # closes the epoll set; its watchers own no descriptor
        os.close(self.wake_fd)
        os.close(self.ticker)
        self.table.close()
