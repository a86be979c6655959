"""Odyssey beside the others, where its binary is: named in ODYSSEY or found on PATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Self

from tests.harness import Postgres, Service, free_port
from tests.harness.endpoint import Endpoint
from tests.harness.service import port_answers

CONFIG = """\
daemonize no
log_to_stdout yes
log_format "%p %t %l [%i %s] (%c) %m\\n"
log_session no
log_query no
workers {workers}
client_max {clients}
storage "postgres" {{
    type "remote"
    host "127.0.0.1"
    port {server_port}
}}
database default {{
    user default {{
        authentication "none"
        storage "postgres"
        pool "transaction"
        pool_size {pool_size}
        pool_reserve_prepared_statement yes
        client_fwd_error yes
    }}
}}
listen {{
    host "127.0.0.1"
    port {port}
}}
"""


class Odyssey(Service, Endpoint):
    """One Odyssey on a free port of 127.0.0.1, transaction pooling, no authentication."""

    name = "odyssey"

    def __init__(self, postgres: Postgres, binary: Path, *, workers: int, pool_size: int, clients: int) -> None:
        super().__init__()
        self.binary, self.port = binary, free_port()
        self.limit_files = clients + 1000
        numbers = {"workers": workers, "pool_size": pool_size, "clients": clients}
        self.config_path = self.directory / "odyssey.conf"
        self.config_path.write_text(CONFIG.format(server_port=postgres.port, port=self.port, **numbers))

    def start(self) -> Self:
        self.spawn([self.binary, self.config_path], limit_files=self.limit_files)
        self.wait_until(lambda: port_answers(self.host, self.port), f"listening on port {self.port}")
        return self


def find_odyssey() -> Path | None:
    found = os.environ.get("ODYSSEY") or shutil.which("odyssey")
    return Path(found) if found else None
