"""PostgreSQL's own programs through the pooler: psql and pgbench."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.drivers.tagged import CLIENTS
from tests.harness import Doorman, Postgres
from tests.harness.endpoint import psql_binary

TRANSACTIONS = 40  # of each of pgbench's clients


def run(argv: list[str], text: str = "") -> str:
    """Standard output; a failure shows what was said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
    return done.stdout


def psql(doorman: Doorman, *arguments: str, dbname: str = "postgres", text: str = "") -> str:
    return run([psql_binary(), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", doorman.dsn(dbname=dbname), *arguments], text)


@pytest.mark.parametrize("dbname", ["postgres", "session"])
class TestPsql:
    def test_commands(self, pooler: Doorman, dbname: str) -> None:
        assert psql(pooler, "-c", "SELECT 1", "-c", "SELECT 'two'", dbname=dbname).split() == ["1", "two"]

    def test_one_transaction(self, pooler: Doorman, dbname: str) -> None:
        output = psql(
            pooler, "-1", "-c", "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 7 AS x", "-c", "TABLE t", dbname=dbname
        )
        assert output.strip() == "7"

    def test_a_file(self, pooler: Doorman, dbname: str, tmp_path: Path) -> None:
        script = tmp_path / "script.sql"
        script.write_text("\\set n 3\nBEGIN;\nSELECT generate_series(1, :n);\nCOMMIT;\n\\echo done\n")
        assert psql(pooler, "-f", str(script), dbname=dbname).split() == ["1", "2", "3", "done"]

    def test_copy_in_and_out(self, pooler: Doorman, accounts: str, dbname: str, tmp_path: Path) -> None:
        path = tmp_path / "rows"
        psql(pooler, "-c", f"\\copy {accounts} to '{path}'", dbname=dbname)
        assert len(path.read_text().splitlines()) == 100
        psql(pooler, "-c", f"\\copy {accounts} from '{path}'", dbname=dbname)
        assert psql(pooler, "-c", f"SELECT count(*) FROM {accounts}", dbname=dbname).strip() == "200"

    def test_describe_and_gset_and_watch(self, pooler: Doorman, accounts: str, dbname: str) -> None:
        output = psql(pooler, dbname=dbname, text=f"\\d {accounts}\nSELECT 5 AS five \\gset\n\\echo :five\n\\dt\n")
        assert "balance|integer" in output and "\n5\n" in output

    def test_binding_by_backslash_commands(self, pooler: Doorman, dbname: str) -> None:
        assert psql(pooler, dbname=dbname, text="SELECT $1::int + $2::int \\bind 2 3 \\g\n").strip() == "5"


def pgbench(postgres: Postgres, doorman: Doorman, protocol: str, dbname: str) -> str:
    binary = str(postgres.bindir / "pgbench")
    # A thread for each client: pgbench waits for an answer to its Parse without looking at the thread's other clients,
    # one of which may be in a transaction and hold the server that the answer needs.
    arguments = [
        "-n",
        "-M",
        protocol,
        "-c",
        str(CLIENTS),
        "-j",
        str(CLIENTS),
        "-t",
        str(TRANSACTIONS),
        "-h",
        doorman.host,
    ]
    return run([binary, *arguments, "-p", str(doorman.port), "-U", "app", dbname])


@pytest.fixture(scope="module")
def bench_tables(postgres: Postgres) -> None:
    run(
        [
            str(postgres.bindir / "pgbench"),
            "-i",
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(postgres.port),
            "-U",
            "app",
            "postgres",
        ]
    )


@pytest.mark.parametrize(
    ("protocol", "dbname"),
    [
        *[("simple", "postgres"), ("extended", "postgres"), ("prepared", "postgres"), ("prepared", "evicting")],
        *[("prepared", "wide"), ("extended", "wide")],
    ],
)
@pytest.mark.usefixtures("bench_tables")
def test_pgbench(pooler: Doorman, postgres: Postgres, protocol: str, dbname: str) -> None:
    total = CLIENTS * TRANSACTIONS
    before = postgres.admin("SELECT count(*) FROM pgbench_history")[0][0]
    output = pgbench(postgres, pooler, protocol, dbname)
    assert re.search(rf"actually processed: {total}/{total}", output)
    assert "number of failed transactions: 0" in output
    assert postgres.admin("SELECT count(*) FROM pgbench_history")[0][0] == before + total
