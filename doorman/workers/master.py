"""The master: forks the workers and the keeper, keeps the listening sockets and the vault, repairs and replaces.

Rules
1. One blocking loop, no threads, no event loop; signals are only queued by their handlers and handled in the loop.
2. Never blocks on a peer: channels queue what cannot be sent.
3. A dead child's channel is read to its end before the table is repaired, and the table is repaired before the
   child is replaced.
4. The port accepts when every worker has been ready once; a worker that dies at boot again and again ends the start.
5. When the master goes, everybody goes: children are killed and reaped, or notice the end of their channel.
6. Each child is in a session of its own, as PostgreSQL's are: the kernel's scheduler weighs sessions (autogroup), so
   workers in one session would together have the weight of one PostgreSQL process and be interrupted by each.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import time
from collections import Counter

from doorman import __version__
from doorman.admin.orders import OrderResult
from doorman.config.resolve import PoolSettings, resolve_pools
from doorman.config.schema import Config, Pool
from doorman.cores import leave_memory_out_of_cores
from doorman.log import set_filter
from doorman.shm.repair import repair_after
from doorman.shm.rows import process_rows
from doorman.shm.table import Table, monotonic_us
from doorman.systemd import Notifier
from doorman.workers.allocation import Allocation, NoRoom
from doorman.workers.channel import (
    Answered,
    Ask,
    Channel,
    Collect,
    Configured,
    Drain,
    Forget,
    Leave,
    LookedUp,
    LookUp,
    Message,
    Obtain,
    Obtained,
    PoolAdded,
    PoolRemoved,
    Publish,
    Ready,
    SetLogLevel,
    Want,
    close_all,
    packets_of,
)
from doorman.workers.descriptors import find_shortage, raise_descriptor_limit
from doorman.workers.encryption import read_materials
from doorman.workers.keeper import Keeper
from doorman.workers.listener import Handovers, Listeners, UnixSocketError, WebSocketError
from doorman.workers.prctl import name_process
from doorman.workers.process import Inheritance, set_up_signals
from doorman.workers.reload import Reloader
from doorman.workers.vault import Vault
from doorman.workers.worker import Worker

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_OS = 71
BOOT_ATTEMPTS = 3
BOOT_FAILURE = 3
RETRY_SECONDS = 1.0
REST_SECONDS = 0.1
FAREWELL_SECONDS = 0.5  # for workers to tell their clients that this is the end
ANSWER_SECONDS = 0.1  # for the answer to SHUTDOWN to reach the console
SPARE_SLOTS = 1024
MOST_SLOTS = 65_536
SPARE_POOLS = 1024
POOLS_ON_DEMAND = 16_384  # more where auth_query brings a pool for each user
USERS = 1 << 16  # whose keys are remembered; 8 MiB if all of them come
USUAL_STATEMENTS = 1024
MOST_STATEMENTS = 1 << 20  # that the set of one server connection has room for
ROLE_WORKER = 1
ROLE_KEEPER = 2
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class Child:
    """A child process as the master sees it."""

    def __init__(self, row: int, pid: int, channel: Channel) -> None:
        self.row = row
        self.pid = pid
        self.channel = channel
        self.is_ready = False


class StartFailed(Exception):
    """The pooler cannot start; the text says why."""


def run_master(config: Config, config_path: str, log_level: str, log_format: str, color: bool) -> int:
    """Run the pooler until it is told to stop; the exit code of the command."""
    limit, workers = raise_descriptor_limit(), config.general.worker_threads
    if shortage := find_shortage(limit, config.general.max_connections, resolve_pools(config), workers):
        log.warning("%s", shortage)
    leave_memory_out_of_cores()
    try:
        listeners = Listeners(config.general, workers, config.web)
    except (UnixSocketError, WebSocketError) as error:
        log.error("%s", error)
        return EXIT_OS
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", config.general.host, config.general.port, error.strerror or error)
        return EXIT_FAILURE
    try:
        master = Master(config, config_path, listeners)
    except OSError as error:
        log.error("the master could not start: %s", error.strerror or error)
        listeners.remove()
        return EXIT_OS
    try:
        return master.run()
    except StartFailed as failure:
        log.error("the start was given up: %s", failure)
        return EXIT_FAILURE
    finally:
        master.end()


class Master:
    """Owner of everything that must survive a child."""

    def __init__(self, config: Config, config_path: str, listeners: Listeners) -> None:
        self.config = config
        self.config_path = config_path
        self.listeners = listeners
        self.workers = config.general.worker_threads
        self.keeper_row = self.workers
        self.handovers = Handovers(self.workers)
        self.materials = read_materials(config)
        pools = resolve_pools(config)
        self.table = make_table(config, pools, self.workers + 1)
        self.vault = Vault(self)
        self.allocation = Allocation(self.table, pools, self.vault.forget, self.wake)
        self.reloader = Reloader(self)
        self.notifier = Notifier.from_environment()
        self.wake_fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(self.workers + 1)]
        self.children: dict[int, Child] = {}
        self.boot_failures: Counter[int] = Counter()
        self.restart_at: dict[int, float] = {}
        self.is_open = False
        self.deadline: float | None = None
        self.drain_at: float | None = None
        self.leave_at: float | None = None
        self.deaf_until: float | None = None  # some channel could not be read
        self.poll = select.poll()
        self.signal_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Everything happens here, in order of arrival."""
        self.listen_for_signals()
        gc.collect()
        gc.freeze()
        for row in range(self.workers + 1):
            self.start_process(row)
        while True:
            for fd, _ in self.poll.poll(self.patience_ms()):
                if fd == self.signal_pipe[0]:
                    if (code := self.handle_signals()) is not None:
                        return code
                elif self.reloader.is_reading(fd):
                    self.reloader.on_readable()
                else:
                    self.on_channel(fd)
            self.listen_again()
            self.vault.answer_wants()
            self.restart_due()
            self.allocation.free_rows()
            self.reloader.look()
            self.give_sign_of_life()
            if self.is_leaving():
                return EXIT_OK
            if self.is_drained():
                return EXIT_OK

    def patience_ms(self) -> int | None:
        """How long nothing needs to be done."""
        if self.vault.unanswered and self.deaf_until is None:
            return 0
        times = list(self.restart_at.values())
        if self.deadline is not None:
            times.append(self.deadline)
        moments = (self.allocation.free_at, self.reloader.next_look, self.drain_at, self.leave_at, self.deaf_until)
        times += [at for at in moments if at]
        times += [] if self.notifier.next_sign is None else [self.notifier.next_sign]
        return max(0, int((min(times) - time.monotonic()) * 1000) + 1) if times else None

    # --- signals -----------------------------------------------------------------------------------------------------

    def listen_for_signals(self) -> None:
        """Rule 1: the handler does nothing, the number comes through the pipe."""
        signal.set_wakeup_fd(self.signal_pipe[1], warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.poll.register(self.signal_pipe[0], select.POLLIN)

    def handle_signals(self) -> int | None:
        """Take all queued signals; an exit code when one of them ends the master."""
        code = None
        for number in os.read(self.signal_pipe[0], 512):
            if number == signal.SIGCHLD:
                self.reap()
            elif number == signal.SIGTERM:
                log.info("SIGTERM: stopping at once")
                code = EXIT_OK
            elif number == signal.SIGINT:
                self.start_drain()
            elif number == signal.SIGHUP:
                log.info("SIGHUP: reloading the configuration")
                self.reloader.ask(lambda result: None)
            else:
                log.warning("%s is not supported by this version", signal.Signals(number).name)
        return code

    def start_drain(self) -> None:
        """Take no more clients, let transactions end, leave at `shutdown_timeout`."""
        if self.deadline is not None:
            return
        self.table.phase = "draining"
        self.notifier.stopping("waiting for transactions to end")
        log.info("shutting down: waiting for transactions to end, at most %d ms", self.config.general.shutdown_timeout)
        self.deadline = time.monotonic() + self.config.general.shutdown_timeout / 1000
        self.listeners.close()
        for row in list(self.restart_at):
            self.give_up(row)
        for child in self.children.values():
            if child.row != self.keeper_row:
                self.tell(child, Drain())

    def give_up(self, row: int) -> None:
        """While the pooler ends a worker that is gone gets no successor: no client may wait for it."""
        if row != self.keeper_row:
            self.restart_at.pop(row, None)
            self.handovers.give_up(row)

    def is_leaving(self) -> bool:
        """Carry out what the console ordered, once its answer has had time to get through."""
        now = time.monotonic()
        if self.drain_at is not None and now >= self.drain_at:
            self.drain_at = None
            self.start_drain()
        return self.leave_at is not None and now >= self.leave_at

    def is_drained(self) -> bool:
        """Nothing is left to wait for, or no time."""
        if self.deadline is None:
            return False
        return time.monotonic() >= self.deadline or all(
            child.row == self.keeper_row for child in self.children.values()
        )

    # --- children ----------------------------------------------------------------------------------------------------

    def start_process(self, row: int) -> None:
        """`spawn`; what the system has no room for now is tried again later."""
        try:
            self.spawn(row)
        except OSError as error:
            if not self.is_open:
                raise StartFailed(f"{self.name_of(row)} could not be started: {error.strerror}") from None
            log.error("%s could not be started: %s", self.name_of(row), error.strerror)
            self.restart_at[row] = time.monotonic() + RETRY_SECONDS

    def spawn(self, row: int) -> None:
        """Fork the process of a row. The child never returns from here."""
        mine, theirs = Channel.pair()
        try:
            pid = os.fork()
        except OSError:
            mine.close()
            theirs.close()
            raise
        if pid == 0:
            try:
                self.be_child(row, mine, theirs)
            except BaseException:
                log.exception("a process could not start")
            finally:
                os._exit(BOOT_FAILURE)
        theirs.close()
        child = Child(row, pid, mine)
        self.children[mine.fileno()] = child
        self.vault.note_birth(row)
        self.poll.register(mine.fileno(), select.POLLIN)

    def be_child(self, row: int, mine: Channel, theirs: Channel) -> None:
        """In the child: let go of what is the master's, become a worker or the keeper."""
        os.setsid()  # away from the terminal, and rule 6
        set_up_signals()
        name_process("doorman keeper" if row == self.keeper_row else f"doorman worker{row}")
        mine.close()
        self.let_go()
        self.table.enter(row, ROLE_KEEPER if row == self.keeper_row else ROLE_WORKER)
        born = Inheritance(
            self.config,
            self.allocation.roster,
            self.materials,
            self.table,
            row,
            theirs,
            self.wake_fds,
            self.vault.sockets,
            self.listeners.remove,
            self.listeners.web,
        )
        if row == self.keeper_row:
            self.listeners.close()
            self.handovers.close()
            Keeper(born).run()
        self.listeners.close_others(row)
        Worker(born, self.listeners.tcp[row], self.listeners.unix, self.handovers).run()

    def let_go(self) -> None:
        """In any child: close what joins the master to others, so that its end is noticed."""
        for child in self.children.values():
            child.channel.close()
        close_all(self.signal_pipe)
        self.reloader.let_go()

    def reap(self) -> None:
        """Take every dead child's leave."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = next((child for child in self.children.values() if child.pid == pid), None)
            if child is not None:
                self.bury(child, status)

    def bury(self, child: Child, status: int) -> None:
        """Rule 3."""
        fd = child.channel.fileno()
        self.read_all(child)
        self.collect(child)
        self.poll.unregister(fd)
        del self.children[fd]
        self.reloader.note_end(child)
        child.channel.close()
        freed, wake = repair_after(self.table, child.row, child.pid)
        self.vault.forget(freed)
        self.vault.note_death(child.row)
        self.wake(wake)
        self.plan_successor(child, status)

    def plan_successor(self, child: Child, status: int) -> None:
        """Replace it, at once if it had been well, later and later if it dies at boot."""
        if self.deadline is not None:
            self.give_up(child.row)
            return
        name = self.name_of(child.row)
        log.error("%s (pid %d) died: %s", name, child.pid, describe(status))
        delay = 0.0
        if not child.is_ready:
            self.boot_failures[child.row] += 1
            failures = self.boot_failures[child.row]
            if not self.is_open and failures >= BOOT_ATTEMPTS:
                raise StartFailed(f"{name} died {failures} times before it was ready (see the log above)")
            delay = min(5.0, 0.05 * 2 ** min(failures, 10))
        self.restart_at[child.row] = time.monotonic() + delay

    def name_of(self, row: int) -> str:
        """A process for people."""
        return "the keeper" if row == self.keeper_row else f"worker {row}"

    def restart_due(self) -> None:
        """Fork the successors whose time has come."""
        now = time.monotonic()
        for row in [row for row, at in self.restart_at.items() if at <= now]:
            del self.restart_at[row]
            self.start_process(row)

    # --- messages ----------------------------------------------------------------------------------------------------

    def on_channel(self, fd: int) -> None:
        """A child speaks, or can be spoken to again."""
        child = self.children.get(fd)
        if child is None:
            return
        self.read_all(child)
        self.collect(child)
        with contextlib.suppress(OSError):
            child.channel.flush()
        if fd in self.children and self.deaf_until is None:
            self.watch(child)

    def read_all(self, child: Child) -> None:
        """Every message that is there. At the end of the stream only SIGCHLD remains to be waited for."""
        try:
            while (received := child.channel.receive()) is not None:
                self.on_message(child, *received)
        except EOFError:
            with contextlib.suppress(KeyError):
                self.poll.modify(child.channel.fileno(), 0)
        except OSError as error:
            self.rest_from(child, error)

    def collect(self, child: Child) -> None:
        """What it has deposited."""
        try:
            while (received := child.channel.collect()) is not None:
                self.on_message(child, *received)
        except EOFError:
            return
        except OSError as error:
            self.rest_from(child, error)

    def rest_from(self, child: Child, error: OSError) -> None:
        """The system has no memory for what a child says: it stays where it is until `listen_again`."""
        self.vault.complain(
            f"the channel of {self.name_of(child.row)} could not be read, which is tried again: {error}"
        )
        with contextlib.suppress(KeyError):
            self.poll.modify(child.channel.fileno(), 0)
        self.deaf_until = time.monotonic() + REST_SECONDS

    def listen_again(self) -> None:
        """After a rest; what was said meanwhile is announced at once."""
        if self.deaf_until is not None and time.monotonic() >= self.deaf_until:
            self.deaf_until = None
            for child in self.children.values():
                self.watch(child)

    def watch(self, child: Child) -> None:
        """Also for writing while something is queued."""
        self.poll.modify(child.channel.fileno(), select.POLLIN | (select.POLLOUT if child.channel.has_queue else 0))

    def on_message(self, child: Child, message: Message, descriptors: list[int]) -> None:
        """One message of a child."""
        if isinstance(message, Publish):
            self.vault.publish(child, message, descriptors)
            return
        close_all(descriptors)
        if isinstance(message, Ready):
            self.on_ready(child)
        elif isinstance(message, Forget):
            self.collect(child)  # what is over may lie there
            self.vault.forget(message.servers, but=child)
        elif isinstance(message, Want):
            self.vault.unanswered.append((child, message))
        elif isinstance(message, Configured):
            self.reloader.note_configured(child, message.number)
        elif isinstance(message, Ask):
            self.on_ask(child, message)
        elif isinstance(message, Obtain):
            self.on_obtain(child, message)
        elif isinstance(message, Collect):
            self.on_collect(message)
        elif isinstance(message, LookUp):
            self.pass_on(self.keeper_row, message)
        elif isinstance(message, LookedUp):
            self.pass_on(message.process, message)

    def on_obtain(self, child: Child, message: Obtain) -> None:
        """A login needs a pool on demand: everybody hears of it before the asker is answered."""
        try:
            entry, is_news = self.allocation.obtain(self.config, message.database, message.user, message.found)
        except (NoRoom, LookupError) as problem:
            self.tell(child, Obtained(message.request, -1, str(problem)))
            return
        if is_news:
            self.tell_all(PoolAdded(entry))
        self.tell(child, Obtained(message.request, entry.row))

    def on_collect(self, message: Collect) -> None:
        """The keeper thinks that nobody uses a pool on demand."""
        if self.allocation.collect(message.row, message.generation):
            self.tell_all(PoolRemoved(message.row, message.generation))

    def on_ask(self, child: Child, message: Ask) -> None:
        """The administrator orders something on the console of a worker."""

        def answer(result: OrderResult) -> None:
            self.tell(child, Answered(message.request, result))

        log.info("ordered on the console: %s", message.order.name)
        if message.order.name == "RELOAD":
            self.reloader.ask(answer)
            return
        now = time.monotonic()
        if message.order.name == "SHUTDOWN":
            self.leave_at = now + ANSWER_SECONDS
        elif message.order.name == "DRAIN":
            self.drain_at = now + ANSWER_SECONDS
        elif message.order.name == "LOG_LEVEL":
            self.set_log_level(message.order.argument)
        answer(OrderResult([]))

    def set_log_level(self, wanted: str) -> None:
        """In every process; those that are forked later have it from here."""
        set_filter(wanted)
        self.tell_all(SetLogLevel(wanted))

    def pass_on(self, row: int, message: Message) -> None:
        """From one child to another. To a row whose process is gone it is lost: the asker asks its successor."""
        for child in list(self.children.values()):
            if child.row == row:
                self.tell(child, message)

    def tell_all(self, message: Message) -> None:
        """Send to every child."""
        packets = packets_of(message)
        for child in list(self.children.values()):
            self.send(child, packets)

    def tell(self, child: Child, message: Message, *descriptors: int) -> None:
        """Send to a child. Messages with descriptors are short."""
        self.send(child, packets_of(message), *descriptors)

    def send(self, child: Child, packets: list[bytes], *descriptors: int) -> None:
        """`tell`, encoded; one that is just dying gets nothing."""
        try:
            child.channel.send_packets(packets, descriptors)
        except OSError:
            return
        if child.channel.has_queue:
            self.watch(child)

    def on_ready(self, child: Child) -> None:
        """Rule 4."""
        child.is_ready = True
        del self.boot_failures[child.row]
        if self.is_open or len(self.children) <= self.workers or not all(c.is_ready for c in self.children.values()):
            return
        self.is_open = True
        self.table.phase = "open"
        self.listeners.open()
        self.notifier.ready(self.describe_self())
        general = self.config.general
        log.info(
            "pg_doorman %s is ready on %s:%d with %d workers and %d pools",
            __version__, general.host, general.port, self.workers, len(self.allocation.roster),
        )  # fmt: skip

    def describe_self(self) -> str:
        """For `systemctl status`."""
        return f"{self.workers} workers, {len(self.allocation.roster)} pools"

    def give_sign_of_life(self) -> None:
        """Tell the watchdog while at least one worker looks after its clients."""
        now = time.monotonic()
        if not self.notifier.is_due(now) or self.notifier.interval is None:
            return
        oldest = monotonic_us() - self.notifier.interval * 2_000_000
        beats = [row.heartbeat for row in process_rows(self.table) if row.role == "worker"]
        self.notifier.alive(now, is_well=not self.is_open or any(beat >= oldest for beat in beats))

    def wake(self, processes: int) -> None:
        """Make processes look at their mail."""
        for row, fd in enumerate(self.wake_fds):
            if processes >> row & 1:
                os.eventfd_write(fd, 1)

    # --- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Rule 5. Clients are told, as far as that goes quickly."""
        self.table.phase = "draining"
        self.notifier.stopping("stopping")
        self.reloader.stop_reading()
        for child in self.children.values():
            if child.is_ready:
                self.tell(child, Leave())
        self.wait_for_children(time.monotonic() + FAREWELL_SECONDS)
        for child in self.children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        for child in self.children.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
        self.listeners.close()
        self.listeners.remove()
        log.info("pg_doorman stopped")

    def wait_for_children(self, deadline: float) -> None:
        """Until those that were told to leave are gone, or their time is over."""
        while time.monotonic() < deadline:
            for fd, child in list(self.children.items()):
                with contextlib.suppress(ChildProcessError):
                    if child.is_ready and os.waitpid(child.pid, os.WNOHANG)[0] == 0:
                        continue
                if child.is_ready:
                    del self.children[fd]
            if not any(child.is_ready for child in self.children.values()):
                return
            time.sleep(0.005)


def make_table(config: Config, pools: list[PoolSettings], processes: int) -> Table:
    """The segment, sized generously: pools come and grow at run time."""
    servers = sum(pool.pool_size for pool in pools)
    users = sum(has_pools_on_demand(pool) for pool in config.pools.values()) and POOLS_ON_DEMAND
    statements = max((pool.server_prepared_statements_cache_size for pool in pools), default=0)
    return Table.create(
        processes=processes,
        pools=len(pools) + SPARE_POOLS + users,
        slots=min(MOST_SLOTS, 2 * servers + SPARE_SLOTS + users),
        clients=max(1024, 2 * config.general.max_connections),
        max_connections=config.general.max_connections,
        statements=min(max(statements, USUAL_STATEMENTS), MOST_STATEMENTS),
        users=USERS,
    )


def has_pools_on_demand(pool: Pool) -> bool:
    """Every user of auth_query gets a pool of its own."""
    return pool.auth_query is not None and pool.auth_query.server_user is None


def describe(status: int) -> str:
    """A wait status for people."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"
