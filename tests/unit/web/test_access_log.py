"""The access log: one line for a response, in a shape that tools read, which no path can forge."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

import pytest

from doorman.config.schema import Config, General
from doorman.shm.table import Table
from doorman.web.server import WebServer, quoted


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_line_for_each_response(caplog: pytest.LogCaptureFixture) -> None:
    table = Table.create(processes=2, pools=1, slots=1, clients=1, max_connections=1)
    config = Config(general=General(admin_username="a", admin_password="b"), pools={})
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with caplog.at_level(logging.DEBUG, "doorman.web.access"):
        await WebServer(table, lambda: (config, [])).start(listening)
        for request in (
            b"GET /live?token=secret HTTP/1.1",
            b"GET /metrics HTTP/1.1",
            b"GET /a%0Ab=%22c HTTP/1.1",
            b"POST /metrics HTTP/1.1\r\nAuthorization: Basic eDp5",
        ):
            await ask(port, request)
    table.close()
    lines = [record.getMessage() for record in caplog.records if record.name == "doorman.web.access"]
    levels = [record.levelname for record in caplog.records if record.name == "doorman.web.access"]
    shapes = [re.sub(r"latency_ms=\d+\.\d peer=127.0.0.1:\d+", "…", line) for line in lines]
    end = "auth_source=- auth_user=-"
    assert shapes == [
        f"method=GET path=/live query=true status=200 bytes=5 … auth_role=anonymous {end}",
        f"method=GET path=/metrics query=false status=200 bytes=0 … auth_role=anonymous {end}",
        rf'method=GET path="/a\nb=\"c" query=false status=404 bytes=0 … auth_role=anonymous {end}',
        f"method=POST path=/metrics query=false status=405 bytes=0 … auth_role=rejected {end}",
    ]
    assert levels == ["DEBUG", "DEBUG", "INFO", "INFO"] and "secret" not in caplog.text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a/b-c", "a/b-c"),
        ("", '""'),
        ("a b", '"a b"'),
        ("é", "é"),
        ("a\x9bb", r'"a\u009bb"'),
        ("a\x1bb", r'"a\u001bb"'),
    ],
)
def test_what_is_quoted(value: str, shown: str) -> None:
    assert quoted(value) == shown
