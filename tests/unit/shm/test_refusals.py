"""Refused logins are counted by cause, over all processes and beyond their life."""

from __future__ import annotations

from doorman.shm.refusals import CAUSES, count_refusal, refusal_counts
from doorman.shm.table import Table


def test_counts_add_up_over_processes_and_outlive_them() -> None:
    table = Table.create(processes=3, pools=2, slots=2, clients=2, max_connections=2)
    try:
        assert refusal_counts(table) == dict.fromkeys(CAUSES, 0)
        for process, causes in enumerate((["hba", "password"], ["password", "ldap"], ["no such cause"])):
            table.enter(process, 1)
            for cause in causes:
                count_refusal(table, cause)
        table.enter(0, 1)  # the next process of that row
        count_refusal(table, "hba", 1)
        counts = {cause: count for cause, count in refusal_counts(table).items() if count}
        assert counts == {"hba": 2, "password": 2, "ldap": 1, "other": 1}
    finally:
        table.close()
