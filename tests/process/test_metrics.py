"""/metrics, /live and /ready of a running pooler, with two workers and against the load that was sent."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from shutil import which
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from doorman.web.families import FAMILIES
from tests.harness import Doorman, Postgres
from tests.harness.doorman import pool_of, user_of
from tests.harness.ports import free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def doorman(postgres: Postgres, make_doorman: Any) -> Doorman:
    return start(postgres, make_doorman)


def start(postgres: Postgres, make_doorman: Any, **options: Any) -> Doorman:
    pools = {
        "postgres": pool_of(postgres, users=[user_of("app", 4)], max_db_connections=10),
        'we"ird': pool_of(postgres, users=[user_of("app", 2)]),
    }
    doorman: Doorman = make_doorman(postgres, pools=pools, start=False, **options)
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    doorman.write_config()
    return doorman.start()


def get(doorman: Doorman, path: str, **headers: str) -> tuple[int, bytes, Any]:
    url = f"http://127.0.0.1:{doorman.config['web']['port']}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read(), refusal.headers


def scrape(doorman: Doorman) -> Samples:
    status, body, _ = get(doorman, "/metrics")
    assert status == 200
    families = list(text_string_to_metric_families(body.decode()))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"pg_doorman_{name}", frozenset(labels.items())]


def of_pool(samples: Samples, name: str, database: str = "postgres", **labels: str) -> float:
    return value(samples, name, database=database, user="app", **labels)


def test_the_text_is_what_prometheus_reads(doorman: Doorman) -> None:
    with psycopg.connect(doorman.dsn(user="app", dbname='we"ird'), autocommit=True) as client:
        client.execute("SELECT repeat('x', 300000)")
    get(doorman, "/metrics")
    status, body, headers = get(doorman, "/metrics")
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4"
    names = [line.split()[2] for line in body.decode().splitlines() if line.startswith("# TYPE")]
    assert names == sorted(names) and len(names) == len(set(names)) and set(names) <= set(FAMILIES)
    assert [line.split()[2] for line in body.decode().splitlines() if line.startswith("# HELP")] == names
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            listed = next(
                f for n in (family.name, family.name + "_total") if (f := FAMILIES.get(n)) and f.kind == family.type
            )
            assert set(sample.labels) - {"le"} == set(listed.labels), sample
    samples = scrape(doorman)
    assert of_pool(samples, "streaming_events_total", 'we"ird', kind="data_row", result="ok") == 1
    assert of_pool(samples, "streaming_bytes_total", 'we"ird', kind="data_row") > 300_000


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_promtool_finds_only_what_the_reference_named_so(doorman: Doorman) -> None:
    """Names and types are the reference's; what promtool has against these few is known."""
    _, body, _ = get(doorman, "/metrics")
    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=30)
    complaints = {line.split()[0] for line in checked.stderr.decode().splitlines() if line.startswith("pg_doorman_")}
    assert b"error" not in checked.stderr.lower().replace(b"pools_errors", b"").replace(b"config_error", b""), (
        checked.stderr
    )
    assert complaints <= {
        "pg_doorman_connection_count",
        "pg_doorman_async_clients_count",
        "pg_doorman_pools_queries_count",
        "pg_doorman_pools_queries_total_time",
        "pg_doorman_pools_transactions_count",
        "pg_doorman_pools_transactions_total_time",
        "pg_doorman_pools_oldest_active_age_ms",
        "pg_doorman_pools_maxwait_microseconds",
    }, checked.stderr.decode()


def test_gzip_and_what_there_is_not(doorman: Doorman) -> None:
    _, body, headers = get(doorman, "/metrics", **{"Accept-Encoding": "deflate, GZIP;q=0.5"})
    assert headers["Content-Encoding"] == "gzip" and b"pg_doorman_build_info" in gzip.decompress(body)
    assert get(doorman, "/metrics?x=1")[0] == 200 and get(doorman, "/nothing")[0] == 404
    samples = scrape(doorman)
    assert value(samples, "web_requests_total", role="anonymous", status_class="4xx") == 1


def test_counters_add_up_to_what_was_sent_through_a_workers_death(doorman: Doorman) -> None:
    sent = {"queries": 0, "transactions": 0}
    dsn = doorman.dsn(user="app", dbname="postgres")

    def load() -> None:
        clients = [psycopg.connect(dsn, autocommit=True, prepare_threshold=None) for _ in range(8)]
        for client in clients:
            for _ in range(10):
                client.execute("SELECT 1")
            with client.transaction():
                client.execute("SELECT 2")
            sent["queries"] += 13
            sent["transactions"] += 11
        with pytest.raises(psycopg.Error):
            clients[0].execute("SELECT 1/0")
        sent["queries"] += 1
        sent["transactions"] += 1
        for client in clients:
            client.close()

    def check(samples: Samples) -> None:
        for name, count in sent.items():
            assert of_pool(samples, f"pools_{name}_total") == count
            assert of_pool(samples, f"pools_{name}_count") == count
        kind = {"queries": "query", "transactions": "transaction"}
        for name, count in sent.items():
            assert of_pool(samples, f"pools_{kind[name]}_duration_seconds_count") == count
            assert of_pool(samples, f"pools_{kind[name]}_duration_seconds_bucket", le="+Inf") == count

    load()
    check(scrape(doorman))
    for _ in range(2):
        for pid in doorman.pids().workers:
            os.kill(pid, signal.SIGKILL)
            doorman.wait_workers(2, without=[pid])
            check(scrape(doorman))
            load()
    samples = scrape(doorman)
    check(samples)
    assert of_pool(samples, "pools_errors_total", sqlstate="other") == 5
    assert of_pool(samples, "pools_logins_total") == 40
    restarts = [number for (name, _), number in samples.items() if name == "pg_doorman_process_restarts_total"]
    assert sum(restarts) == 4
    os.kill(doorman.pids().keeper or 0, signal.SIGKILL)
    doorman.wait_until(lambda: get_or_none(doorman), "metrics of the next keeper", 5)
    check(scrape(doorman))


def get_or_none(doorman: Doorman) -> bool:
    try:
        return get(doorman, "/live")[0] == 200
    except OSError:
        return False


def test_gauges_agree_with_the_console_and_with_postgresql(doorman: Doorman, postgres: Postgres) -> None:
    dsn = doorman.dsn(user="app", dbname="postgres")
    with (
        psycopg.connect(dsn, autocommit=True) as one,
        psycopg.connect(dsn) as two,
        psycopg.connect(dsn, autocommit=True),
    ):
        one.execute("SELECT 1", prepare=True)
        one.execute("SELECT 1", prepare=True)
        two.execute("SELECT 1")
        doorman.console('PAUSE "we""ird"')
        samples = scrape(doorman)
        assert [of_pool(samples, "pools_clients", status=status) for status in ("idle", "active", "waiting")] == [
            2,
            1,
            0,
        ]
        servers = sum(of_pool(samples, "pools_servers", status=status) for status in ("idle", "active"))
        assert servers == len(postgres.activity(usename="app", application_name="pg_doorman"))
        assert [of_pool(samples, "pools_paused", name) for name in ("postgres", 'we"ird')] == [0, 1]
        assert of_pool(samples, "pool_size") == 4 and of_pool(samples, "pool_prepared_cache_entries") >= 1
        assert value(samples, "pool_coordinator", database="postgres", type="connections") == servers
        assert value(samples, "processes", role="worker") == 2
        assert value(samples, "connections_total", type="plain") >= 3
        assert of_pool(samples, "pools_oldest_active_age_ms") >= 0
    family = doorman.pids()
    per_process = {
        dict(labels)["process"]: bytes_
        for (name, labels), bytes_ in samples.items()
        if name == "pg_doorman_process_memory_bytes"
    }
    assert len(per_process) == len(family.all()) and value(samples, "total_memory") == sum(per_process.values())


def test_percentiles_and_buckets_of_known_times(postgres: Postgres, make_doorman: Any) -> None:
    doorman = start(postgres, make_doorman)
    dsn = doorman.dsn(user="app", dbname="postgres")
    with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as client:
        times = []
        for step in range(30):
            began = time.perf_counter()
            client.execute(f"SELECT pg_sleep({0.02 if step < 27 else 0.06})".encode())
            times.append(time.perf_counter() - began)
    samples = scrape(doorman)
    assert 20 <= of_pool(samples, "pools_queries_percentile", percentile="50") < 30
    assert 60 <= of_pool(samples, "pools_queries_percentile", percentile="99") <= max(times) * 1000 * 1.02
    buckets = {
        le: of_pool(samples, "pools_query_duration_seconds_bucket", le=le) for le in ("0.005", "0.05", "0.5", "5")
    }
    assert buckets["0.005"] == 0 and buckets["0.5"] == buckets["5"] == 30 and buckets["0.05"] <= 27
    assert 27 * 0.02 + 3 * 0.06 <= of_pool(samples, "pools_query_duration_seconds_sum") <= sum(times)


def test_refusals_and_cancels_are_counted(doorman: Doorman) -> None:
    before = scrape(doorman)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(doorman.dsn(user="nobody", dbname="nowhere"))
    with psycopg.connect(doorman.dsn(user="app", dbname="postgres")) as client:
        client.cancel()
    samples = scrape(doorman)
    assert value(samples, "login_failures_total", cause="no_pool") == 1
    assert value(samples, "connections_total", type="cancel") == value(before, "connections_total", type="cancel") + 1


def test_the_sockets_are_counted(doorman: Doorman) -> None:
    def is_counted() -> bool:  # two listeners, HTTP; a census may meet a socket that is just being made or closed
        row = doorman.console("SHOW SOCKETS")[0]
        right = row["tcp_listen"] == 3 and row["unknown"] == 0 and row["unix_seq_packet"] >= 3
        return right and value(scrape(doorman), "sockets", type="tcp") >= 3

    doorman.wait_until(is_counted, "a census of sockets", 20)


def test_ready_is_not_said_before_the_port_accepts(postgres: Postgres, make_doorman: Any) -> None:
    doorman: Doorman = make_doorman(postgres, general={"worker_threads": 4}, start=False)
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    doorman.write_config()
    doorman.spawn_only()
    answers: list[tuple[int, bytes]] = []

    def is_ready() -> bool:
        try:
            answers.append(get(doorman, "/ready")[:2])
        except OSError:
            return False
        return answers[-1][0] == 200

    doorman.wait_until(is_ready, "a ready pooler", 10)
    assert doorman.is_serving()
    assert set(answers[:-1]) <= {(503, b"starting\n")}


def test_health(doorman: Doorman) -> None:
    assert get(doorman, "/live")[:2] == (200, b"live\n") and get(doorman, "/ready")[:2] == (200, b"ready\n")
    for pid in doorman.pids().workers:
        os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: get(doorman, "/ready")[:2] == (503, b"no worker accepts clients\n"), 8)
    assert get(doorman, "/live")[0] == 200
    for pid in doorman.pids().workers:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: get(doorman, "/ready")[0] == 200, 3)
    with psycopg.connect(doorman.dsn(user="app", dbname="postgres")) as client:
        client.execute("SELECT 1")
        doorman.signal(signal.SIGINT)
        wait_for(lambda: get(doorman, "/ready")[:2] == (503, b"draining\n"), 3)
        assert get(doorman, "/live")[0] == 200
        client.commit()
    assert doorman.wait_exit() == 0


def test_look_ups_of_users_are_counted(postgres: Postgres, make_doorman: Any) -> None:
    query = {
        "query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
        "user": "postgres",
        "server_user": "app",
    }
    for sql in ("DROP ROLE IF EXISTS looked_up", "CREATE ROLE looked_up LOGIN PASSWORD 'x'"):
        postgres.admin(sql)
    pools = {"postgres": pool_of(postgres, users=[], auth_query=query)}
    general = {"pg_hba": {"content": "host all all 127.0.0.1/32 scram-sha-256\n"}}
    doorman: Doorman = make_doorman(postgres, pools=pools, general=general, start=False)
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    doorman.write_config()
    doorman.start()
    for _ in range(3):
        psycopg.connect(doorman.dsn(user="looked_up", password="x", dbname="postgres")).close()
    samples = scrape(doorman)
    assert value(samples, "auth_query_cache_total", database="postgres", type="misses") == 1
    assert value(samples, "auth_query_cache_total", database="postgres", type="hits") == 2
    assert value(samples, "auth_query_executor_total", database="postgres", type="queries") == 1
    assert value(samples, "auth_query_cache", database="postgres", type="entries") == 1


def wait_for(is_so: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.05)


def test_a_port_that_is_taken_ends_the_start(doorman: Doorman, postgres: Postgres, make_doorman: Any) -> None:
    second: Doorman = make_doorman(postgres, start=False)
    second.config["web"] = dict(doorman.config["web"])
    second.write_config()
    second.spawn_only()
    assert second.wait_exit() == 71
    assert second.log_contains("(web)")


def test_startup_parameters_that_postgresql_refuses_are_counted(postgres: Postgres, make_doorman: Any) -> None:
    """Each pool's own; an error that has nothing to do with them is none of theirs."""
    doorman = start(postgres, make_doorman)
    pools = {
        name: pool_of(postgres, users=[user_of("app", 2)], **keys)
        for name, keys in {
            "unknown": {"startup_parameters": {"no_such_setting": "1"}},
            "invalid": {"startup_parameters": {"work_mem": "a lot"}},
            "forbidden": {"startup_parameters": {"log_statement": "all"}},
            "elsewhere": {"startup_parameters": {"work_mem": "5MB"}, "server_database": "no_such_database"},
        }.items()
    }
    doorman.reload(pools={**doorman.config["pools"], **pools})
    for name in pools:
        with pytest.raises(psycopg.Error):
            psycopg.connect(doorman.dsn(user="app", dbname=name)).execute("SELECT 1")
    counted = {
        (dict(labels)["pool"], dict(labels)["sqlstate"]): count
        for (name, labels), count in scrape(doorman).items()
        if name == "pg_doorman_backend_startup_parameter_errors_total"
    }
    assert set(counted) == {("unknown", "42704"), ("invalid", "22023"), ("forbidden", "42501")}
    assert all(count >= 1 for count in counted.values())


def test_texts_that_make_room_are_counted(postgres: Postgres, make_doorman: Any) -> None:
    """Through the death of the worker that forgot them, too."""
    doorman = start(postgres, make_doorman, general={"prepared_statements_cache_size": 10})

    def forgotten() -> float:
        return value(scrape(doorman), "query_interner_evictions_total", kind="named", reason="limit")

    def prepare(count: int) -> None:
        with psycopg.connect(doorman.dsn(user="app", dbname="postgres"), autocommit=True) as client:
            for number in range(count):
                client.execute(f"SELECT {number}".encode(), prepare=True)

    prepare(50)
    doorman.wait_until(lambda: forgotten() == 40, "forty texts forgotten", 5)
    for pid in doorman.pids().workers:
        os.kill(pid, signal.SIGKILL)
        doorman.wait_workers(2, without=[pid])
    assert forgotten() == 40
    prepare(15)
    doorman.wait_until(lambda: forgotten() == 45, "five more", 5)
    assert value(scrape(doorman), "query_interner_synthetic_misses_total") == 0


def test_clients_who_wait_at_the_gate_are_counted(postgres: Postgres, make_doorman: Any) -> None:
    """Four clients come at once, one server is opened at a time: at least one finds the gate shut."""
    pools = {"postgres": pool_of(postgres, users=[user_of("app", 4)])}
    doorman: Doorman = make_doorman(postgres, pools=pools, general={"scaling_max_parallel_creates": 1}, start=False)
    doorman.config["web"] = {"enabled": True, "host": "127.0.0.1", "port": free_port()}
    doorman.write_config()
    doorman.start()

    def at_once() -> bool:
        doorman.console("RECONNECT")
        clients = [psycopg.connect(doorman.dsn(user="app", dbname="postgres"), autocommit=True) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda client: client.execute("SELECT pg_sleep(0.05)"), clients))
        for client in clients:
            client.close()
        return doorman.console("SHOW POOL_SCALING")[0]["gate_waits"] > 0

    doorman.wait_until(at_once, "a client at the gate", 10)
    row = doorman.console("SHOW POOL_SCALING")[0]
    samples = scrape(doorman)
    assert of_pool(samples, "pool_scaling_total", type="burst_gate_waits") == row["gate_waits"]
    assert of_pool(samples, "pool_scaling_total", type="creates_started") == row["creates"] >= 2
