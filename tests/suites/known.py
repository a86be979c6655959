"""What differs through the pooler and why it must: by suite, then by test."""

from __future__ import annotations

KNOWN: dict[str, dict[str, str]] = {
    "pg_regress": {
        "guc": "a server that another client has used may have plpgsql loaded already, and its prefix reserved",
        "stats": "\\c takes a server that is there: PostgreSQL counts no new session",
        "temp": "a server keeps its temporary schema from one client to the next: none is made in this transaction",
    },
}
