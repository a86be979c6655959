"""Threads for calls that block (libpam, a directory, a key derivation of many rounds), a few per process.

Rules
1. A call that outlives its deadline keeps its thread until it returns; nobody waits for it, and what it says is lost.
2. With all threads taken further calls queue, and their own deadlines count from when they were asked for.
3. Key derivations, which only compute, have threads of their own: a module that hangs must not stop passwords.
4. A thread is not given anything of the relay's or the table's: values in, values out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, ParamSpec, TypeVar

THREADS: Final = 32
"""At once in one process; `max_blocking_threads` sets another number."""

DERIVATIONS: Final = 4
"""More at once gain nothing: processors are shared with the relays of all workers."""

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """The threads of this process; none exists before the first call, so the number can be set after a fork."""

    def __init__(self, most: int = THREADS) -> None:
        self.most = most
        self.executor: ThreadPoolExecutor | None = None

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `call` returns or raises."""
        if self.executor is None:
            self.executor = ThreadPoolExecutor(self.most, "auth")
        return await asyncio.get_running_loop().run_in_executor(self.executor, partial(call, *args, **kwargs))


THREADS_OF_PROCESS: Final = Threads()
run_in_thread: Final = THREADS_OF_PROCESS.run
compute_in_thread: Final = Threads(DERIVATIONS).run
