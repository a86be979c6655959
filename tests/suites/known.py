"""What differs through the pooler and why it must: by suite, then by test."""

from __future__ import annotations

DROPPED = "the database that is to be dropped has the pool's idle servers"
STRANGER = "who has no pool is told so (3D000), and not what PostgreSQL would say of him"
CANCELLED = "by chance: asyncpg's pool connects anew in the background and cancels that at its end, unheard"
UNNAMED = "clients without application_name have the pool's"

KNOWN: dict[str, dict[str, str]] = {
    "pg_regress": {
        "guc": "a server that another client has used may have plpgsql loaded already, and its prefix reserved",
        "stats": "\\c takes a server that is there: PostgreSQL counts no new session",
        "temp": "a server keeps its temporary schema from one client to the next: none is made in this transaction",
    },
    "asyncpg": {
        "tests/test_cache_invalidation.py::TestCacheInvalidation::test_type_cache_invalidation_in_pool": DROPPED,
        "tests/test_introspection.py::TestIntrospection::test_introspection_sticks_for_ps": DROPPED,  # its class's end
        "tests/test_pool.py::TestPool::test_pool_config_persistence": CANCELLED,
    },
    "pg8000": {
        f"test/{kind}/test_connection.py::test_broken_pipe_read": "by chance, also without a pooler: closed or reset"
        for kind in ("dbapi", "legacy", "native")
    },
    "pgx": {
        "/pgconn:TestConnectInvalidUser": STRANGER,
        "/pgconn:TestConnectProtocolVersion32": "protocol 3.2, with its long cancel keys, is ours, not the server's",
        "/pgxpool:TestConnReleaseClosesConnInFailedTransaction": "a new client finds the same process behind it",
    },
    "pq": {
        ":TestAuth/end_to_end/user=pqgounknown_password=wordpass": STRANGER,
        ":TestErrorDuringStartup": STRANGER,
        ":TestRuntimeParameters": UNNAMED,
        ":TestRuntimeParameters/#08": UNNAMED,
    },
}
