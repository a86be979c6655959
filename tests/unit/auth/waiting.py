"""Exchanges that wait, for tests without an event loop of their own."""

from __future__ import annotations

import asyncio

from doorman.auth.exchange import Answer, Wait


def settle(answer: Answer) -> bytes:
    """The bytes that it comes to in the end."""

    async def wait(answer: Wait) -> Answer:
        async with asyncio.timeout(answer.seconds):
            return await answer.work()

    while isinstance(answer, Wait):
        answer = asyncio.run(wait(answer))
    return answer
