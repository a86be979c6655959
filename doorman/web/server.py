"""The HTTP server of the keeper: /metrics for Prometheus, /live and /ready for whoever runs the pooler.

Rules
1. None of these asks for a password, and none tells more than figures.
2. A scrape is made in one piece, so it is one picture; compressing it happens in a thread.
3. Ready is who would serve a query: open, not draining, and at least one worker is well.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from doorman import __version__
from doorman.config.schema import Config
from doorman.log import shown_filter
from doorman.shm.rows import process_rows
from doorman.shm.table import Table, monotonic_us
from doorman.web.collector import encode
from doorman.web.figures import Figures, LookUpFigures

log = logging.getLogger(__name__)
access_log = logging.getLogger("doorman.web.access")

SLOW_SECONDS: Final = 0.1
SLOW_LOG_SECONDS: Final = 30.0
HEARTBEAT_SECONDS: Final = 5.0
"""A worker whose loop has not turned for so long is not well."""
GZIP_LEVEL: Final = 1
"""The text repeats itself: more effort saves little."""
MOST_HEAD_BYTES: Final = 32 * 1024
KEEP_ALIVE_SECONDS: Final = 30.0

_UNSAFE: Final = re.compile(r'[\s\x00-\x1f\x7f-\x9f"\\=]')
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}  # json.dumps leaves these as they are

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WebServer:
    """`figures` is asked at each scrape: configuration and look-ups change."""

    def __init__(self, table: Table, figures: Callable[[], tuple[Config, list[LookUpFigures]]]) -> None:
        self._table = table
        self._figures = figures
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._responses: Counter[tuple[str, str]] = Counter()
        self._slow_logged_at = -SLOW_LOG_SECONDS

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound already."""
        app = web.Application(middlewares=[self._note])
        app.router.add_get("/metrics", self._metrics, allow_head=False)
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            max_line_size=MOST_HEAD_BYTES,
            max_field_size=MOST_HEAD_BYTES,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
        )
        await runner.setup()
        await web.SockSite(runner, listening).start()

    # Answers

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        began = time.perf_counter()
        body, content_type = encode(request.headers.get("Accept", ""), self._figures_now)
        took = time.perf_counter() - began
        headers = {"Content-Type": content_type}
        is_gzip = "gzip" in request.headers.get("Accept-Encoding", "").lower()
        if is_gzip:
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(None, gzip.compress, body, GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        self._log_scrape(took, len(body), is_gzip)
        return web.Response(body=body, headers=headers)

    def _figures_now(self) -> Figures:
        config, look_ups = self._figures()
        return Figures(self._table, config, __version__, shown_filter(), self._attempts, self._responses, look_ups)

    def _log_scrape(self, seconds: float, size: int, is_gzip: bool) -> None:
        log.info("metrics scraped: duration_ms=%.1f bytes=%d gzip=%s", seconds * 1000, size, str(is_gzip).lower())
        now = time.monotonic()
        if seconds >= SLOW_SECONDS and now - self._slow_logged_at >= SLOW_LOG_SECONDS:
            self._slow_logged_at = now
            log.warning("a scrape of the metrics took %.0f ms", seconds * 1000)

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """The keeper's loop turns: that is what this proves."""
        return web.Response(text="live\n")

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        """Rule 3."""
        obstacle = self.obstacle()
        return web.Response(text=f"{obstacle or 'ready'}\n", status=503 if obstacle else 200)

    def obstacle(self) -> str:
        """Why the pooler is not ready; "" when it is."""
        if self._table.phase != "open":
            return self._table.phase
        oldest = monotonic_us() - int(HEARTBEAT_SECONDS * 1e6)
        workers = [process for process in process_rows(self._table) if process.role == "worker"]
        if not any(process.pid and process.heartbeat > oldest for process in workers):
            return "no worker accepts clients"
        return ""

    # What every response leaves

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        try:
            response = await handler(request)
        except web.HTTPException as refusal:
            response = web.Response(status=refusal.status, headers={"Allow": refusal.headers.get("Allow", "GET")})
        role, source = ("rejected", "none") if "Authorization" in request.headers else ("anonymous", "none")
        self._attempts[role, source] += 1
        self._responses[role, f"{response.status // 100}xx"] += 1
        level = logging.DEBUG if response.status < 300 else logging.INFO
        if access_log.isEnabledFor(level):
            access_log.log(level, "%s", describe(request, response, time.perf_counter() - began, role))
        return response


def describe(request: web.Request, response: web.StreamResponse, seconds: float, role: str) -> str:
    """A response for the access log, in logfmt. Of a query only whether there was one: it may hold a token."""
    body = response.body if isinstance(response, web.Response) and request.path != "/metrics" else None
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    fields = {
        "method": request.method,
        "path": request.path,
        "query": str(bool(request.query_string)).lower(),
        "status": str(response.status),
        "bytes": str(len(body) if isinstance(body, bytes | bytearray) else 0),
        "latency_ms": f"{seconds * 1000:.1f}",
        "peer": f"{peer[0]}:{peer[1]}" if peer else "-",
        "auth_role": role,
        "auth_source": "-",
        "auth_user": "-",
    }
    return " ".join(f"{name}={quoted(value)}" for name, value in fields.items())


def quoted(value: str) -> str:
    """A value that cannot be taken for two, or for another line."""
    if value and not _UNSAFE.search(value):
        return value
    return json.dumps(value, ensure_ascii=False).translate(_CONTROLS)
