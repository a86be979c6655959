"""What a refused login costs and leaves behind: a count, a log line, and time for whoever tries passwords.

Rules
1. Whoever failed to prove who it is learns so after `auth_failure_delay`. It waits in a list of this process: no
   server, no task and no timer are held for it, and its bytes are not looked at. Other refusals are told at once.
2. All reasons for such a failure are told alike and as late; only the log says which it was. The delay counts from the
   client's last message: that somebody was looked up again, because there is such a user, takes no longer.
3. One source (address and cause) is logged once in `auth_failure_log_interval`, by whatever worker (shm/refusals); the
   next line says how many were left out.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from doorman.errors import ClientFault, PeerFault
from doorman.shm.refusals import count_refusal, lines_left_out
from doorman.shm.tls import count_client_fault
from doorman.tls.handshake import HandshakeFault
from doorman.wire import backend
from doorman.wire.startup import StartupMessage

if TYPE_CHECKING:
    from doorman.workers.login import Login
    from doorman.workers.process import Process
    from doorman.workers.relay.engine import Client

log = logging.getLogger(__name__)

EVERYBODY: Final = b"too many clients"
PROBES: Final = ("28000", "28P01", "3D000")
"""What somebody hears who tries passwords, users and databases."""


class Refusals:
    """The refusals of one process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.delayed: dict[Client, tuple[float, bytes]] = {}

    def refuse(self, client: Client, login: Login, fault: PeerFault, cause: str) -> None:
        """End a client's login, now or in a while."""
        count_refusal(self.process.table, cause, login.pool)
        self.note(client, login.startup, fault, cause)
        last_words = backend.fault_response(fault)
        delay = self.process.config.general.auth_failure_delay / 1000
        if delay and fault.sqlstate in PROBES:
            self.process.relay.suspend(client)
            self.delayed[client] = (login.heard_at_us / 1e6 + delay, last_words)
        else:
            self.process.relay.dismiss(client, last_words)

    def end_handshake(self, client: Client, fault: HandshakeFault) -> None:
        """A TLS handshake failed: the client gets OpenSSL's alert and no words."""
        count_refusal(self.process.table, "tls_handshake_fail")
        count_client_fault(self.process.table, fault.fault)
        why = ClientFault("08006", f"TLS handshake failed: {fault.reason}")
        self.note(client, None, why, "tls_handshake_fail")
        self.process.relay.dismiss(client, fault.alert)

    def end_late(self, client: Client, login: Login) -> None:
        """`client_login_timeout` is over. PostgreSQL says nothing to who has not told its name; we do."""
        if client in self.delayed:
            return  # its login has ended already
        login.stop_waiting()
        fault = ClientFault(
            "57014", "canceling authentication due to timeout", for_log=f"client_login_timeout, {login.stage}"
        )
        if not login.is_shaking():
            self.refuse(client, login, fault, "timeout")
            return
        count_refusal(self.process.table, "timeout", login.pool)
        self.note(client, None, fault, "timeout")
        self.process.relay.end(client)  # it would take no words in clear now

    def tick(self) -> None:
        """Ten times a second: whose time has come."""
        now = time.monotonic()
        for client in [client for client, (told_at, _) in self.delayed.items() if told_at <= now]:
            _, last_words = self.delayed.pop(client)
            if not client.is_gone:
                self.process.relay.dismiss(client, last_words)

    # --- log ---------------------------------------------------------------------------------------------------------

    def note(self, client: Client, startup: StartupMessage | None, fault: PeerFault, cause: str) -> None:
        """Rule 3."""
        interval_ms = self.process.config.general.auth_failure_log_interval
        source = self.source_of(client, cause)
        left_out = lines_left_out(self.process.table, source, interval_ms * 1000) if interval_ms else 0
        if left_out is None:
            return
        login = f"{startup.user}@{startup.database}" if startup is not None else "unknown"
        why = f" [{fault.for_log}]" if fault.for_log else ""
        more = f" ({left_out} more by this source were not logged)" if left_out else ""
        name = self.process.name_of(client, login)
        log.warning("client %s was refused: %s %s%s%s", name, fault.sqlstate, fault.message, why, more)

    def source_of(self, client: Client, cause: str) -> bytes:
        """Whom to be silent about for a while."""
        if client.number < 0:
            return EVERYBODY
        return f"{'unix' if client.is_unix else self.process.address_of(client)} {cause}".encode()
