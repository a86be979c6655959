"""The torture as a test, and the torture tested: a proxy that mixes up clients must be found out."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from tests.harness import Postgres, find_debian_postgres
from tests.harness.pgbouncer import find_pgbouncer
from tests.torture import run, wire


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_client_ever_gets_a_wrong_answer() -> None:
    assert run.main(["--seconds", "20", "--seed", "20"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_releasing_a_server_too_early_is_detected() -> None:
    assert run.main(["--seconds", "20", "--clients", "60", "--seed", "20", "--broken"]) == 0


SHORT = ["--seconds", "4", "--clients", "40", "--seed", "4"]


def test_postgresql_itself_passes() -> None:
    """What the clients expect is PostgreSQL's behaviour, also after cancels, time-outs and lost connections."""
    assert run.main([*SHORT, "--target", "postgresql"]) == 0


@pytest.mark.timeout(120)
@pytest.mark.skipif(find_debian_postgres() is None, reason="needs Debian's package postgresql (built with SSL)")
def test_encrypted_on_both_sides() -> None:
    assert run.main(["--seconds", "10", "--clients", "60", "--seed", "5", "--tls"]) == 0


@pytest.mark.skipif(find_pgbouncer() is None, reason="needs the package pgbouncer")
def test_another_pooler_passes() -> None:
    """The same through a pooler that is not ours; its faults are its own, so none are injected."""
    assert run.main([*SHORT, "--target", "pgbouncer", "--no-faults", "--no-terminate", "--no-hold"]) == 0


def test_mixed_up_clients_are_detected(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "HANG_TIMEOUT", 5.0)

    async def torture_mixer() -> int:
        mixer = Mixer(postgres.port)
        server = await asyncio.start_server(mixer.serve, "127.0.0.1", 0)
        port = str(server.sockets[0].getsockname()[1])
        options = ["--target", "postgresql", "--port", port, "--seconds", "15", "--clients", "20", "--broken"]
        parsed = run.parse_options([*options, "--no-faults"])
        return await run.torture(run.Target("127.0.0.1", int(port)), parsed)

    assert asyncio.run(torture_mixer()) == 0


class Mixer:
    """A proxy that now and then gives a client's bytes to another client's server."""

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.servers: list[asyncio.StreamWriter] = []
        self.random = random.Random(1)

    async def serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.server_port)
        self.servers.append(to_server)
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(self._mix(from_client, to_server), self._copy(from_server, to_client))
        finally:
            self.servers.remove(to_server)
            to_server.transport.abort()  # what is left of it would be counted by others' tests
            to_client.transport.abort()

    async def _mix(self, source: asyncio.StreamReader, own: asyncio.StreamWriter) -> None:
        own.write(await source.read(65536))  # the login stays where it belongs
        while data := await source.read(65536):
            (self.random.choice(self.servers) if self.random.random() < 0.003 else own).write(data)
        own.close()

    @staticmethod
    async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()
