"""The login of a user whom auth_query has to find: look up, prove, perhaps look up again, enter. Sans I/O.

Rules
1. Whoever is not found is a decoy (`Found.is_decoy`): it goes through the same motions as others, is looked up again
   like others, and is refused in the end (`exchange`, rule 3). A name that no role can have is nobody at once.
2. A password that was not met may have changed in PostgreSQL: it is looked up anew. Where the same answer can be judged
   again (MD5 with the same salt, a password in clear), it is; a SCRAM proof is bound to its salt, so only the next
   login profits, and this one does not wait. A decoy is looked up anew where others wait for that.
3. Trust skips the proof, not the look-up: there must be such a user.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from doorman.auth.auth_query import Found
from doorman.auth.exchange import TRUSTED, Answer, CleartextExchange, ClientExchange, Md5Exchange, Wait
from doorman.auth.md5 import is_md5_hash
from doorman.auth.scram import wrong_password
from doorman.errors import ClientFault, PeerFault
from doorman.wire.codes import SqlState

Ask = Callable[[str], Awaitable[Found | None]]
"""`await ask(failed)`: the user, or a decoy; `failed` marks the stored password that was not met, "" at first."""
Report = Callable[[str], None]
"""`report(failed)`: likewise, and nobody waits; when the refusal is told, so that it takes no longer by that."""
Choose = Callable[[Found | None], ClientExchange]
"""How a user must prove itself; a decoy and None are nobody, and are refused in the end."""
Enter = Callable[[Found], Awaitable[None]]
"""Finds the pool of a user who has proved itself."""


class LookUpExchange:
    """One login. `seconds` and `late` are those of every wait for somebody else."""

    __slots__ = ("_ask", "_choose", "_enter", "_found", "_inner", "_late", "_report", "_seconds", "_user", "client_key",
                 "done")  # fmt: skip

    def __init__(
        self,
        user: str,
        *,
        ask: Ask,
        report: Report,
        choose: Choose,
        enter: Enter,
        seconds: float,
        late: PeerFault,
    ) -> None:
        self._user = user
        self._ask = ask
        self._report = report
        self._choose = choose
        self._enter = enter
        self._seconds = seconds
        self._late = late
        self._found: Found | None = None
        self._inner: ClientExchange = TRUSTED
        self.client_key: bytes | None = None
        self.done = False

    def start(self) -> Answer:
        return self._wait(self._begin)

    def feed(self, body: bytes) -> Answer:
        try:
            answer = self._inner.feed(body)
        except ClientFault as fault:
            return self._on_refusal(fault, body)
        return self._pass_on(answer, body)

    # --- the look-up -------------------------------------------------------------------------------------------------

    async def _begin(self) -> Answer:
        self._found = await self._ask("")
        self._inner = self._choose(self._found)
        answer = self._inner.start()
        if not self._inner.done:
            return answer
        assert isinstance(answer, bytes)
        return await self._finish(answer)

    # --- the proof ---------------------------------------------------------------------------------------------------

    def _pass_on(self, answer: Answer, body: bytes) -> Answer:
        """What the inner exchange says, until it is done."""
        if isinstance(answer, Wait):
            return Wait(lambda: self._judge(answer, body), answer.seconds, answer.late)
        return self._wait(lambda: self._finish(answer)) if self._inner.done else answer

    async def _judge(self, wait: Wait, body: bytes) -> Answer:
        try:
            answer = await wait.work()
        except ClientFault as fault:
            return self._on_refusal(fault, body)
        return self._pass_on(answer, body)

    async def _finish(self, answer: bytes) -> Answer:
        if self._found is None or self._found.is_decoy:
            raise wrong_password(self._user)
        self.client_key = self._inner.client_key
        await self._enter(self._found)
        self.done = True
        return answer

    # --- rule 2 ------------------------------------------------------------------------------------------------------

    def _on_refusal(self, fault: ClientFault, body: bytes) -> Answer:
        found = self._found
        if fault.sqlstate != SqlState.INVALID_PASSWORD or found is None:
            raise fault
        if isinstance(self._inner, Md5Exchange | CleartextExchange):
            return self._wait(lambda: self._judge_again(fault, body, found))
        if not found.is_decoy:
            self._report(found.mark)
        raise fault

    async def _judge_again(self, fault: ClientFault, body: bytes, met: Found) -> Answer:
        found = await self._ask(met.mark)
        if found is None or found.is_decoy or found.password == met.password:
            raise fault
        if isinstance(self._inner, CleartextExchange):
            inner = self._choose(found)
        elif isinstance(self._inner, Md5Exchange) and is_md5_hash(found.password):
            inner = self._inner.again(found.password)
        else:
            raise fault  # the next login will be asked in the right way
        answer = inner.feed(body)
        if isinstance(answer, Wait):
            answer = await answer.work()
        assert isinstance(answer, bytes)
        self._found, self._inner = found, inner
        return await self._finish(answer)

    def _wait(self, work: Callable[[], Awaitable[Answer]]) -> Wait:
        return Wait(work, self._seconds, self._late)
