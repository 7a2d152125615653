"""Limiter: a rate that all processes share, waited for in the middle of anything."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Final

from processor.core.errors import BadInput
from processor.core.names import check_name
from processor.core.rate import Rate
from processor.store.connection import speaking_of
from processor.store.rates import Turn, ask_rates

if TYPE_CHECKING:
    from processor.client.sync import Portal
    from processor.client.tailrace import Tailrace

__all__ = ["Limiter", "SyncLimiter"]

LOOK_SECONDS: Final = 30.0  # so long at most without asking: the server's clock may have gone on without ours


class Limiter:
    """Made by `tail.limiter(name, rate)`. Equal names are one rate in all processes of the namespace.

    Those who wait in one process and event loop pass in the order in which they came; between processes there is no order.
    """

    def __init__(self, tail: Tailrace, name: str, rate: Rate | str) -> None:
        """Raises BadInput."""
        self.name = check_name(name, "limiter")
        given = Rate.of(rate)
        if given is None or given.by is not None or given.name is not None:
            raise BadInput(
                f"limiter {name} has the rate {rate!r}.",
                remedy='Give a rate alone, such as "90000/min" or Rate("90000/min", burst=5000); its name is the limiter\'s.',
                field="rate",
                value=str(rate),
            )
        self.rate = given
        self._tail = tail
        self._lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Limiter {self.name} {self.rate.per}>"

    async def take(self, cost: int = 1) -> None:
        """Returns when the rate allows so many, which are then taken; cancelled before, nothing is.

        cost: for example the tokens of a call. Raises BadInput where it is more than the rate's burst, ServerError.
        """
        turn = Turn(self.rate, f"limiter:{self.name}", self._checked(cost))
        async with self._line():
            while wait := await self._ask(turn):  # noqa: ASYNC110 - only the server knows when
                await asyncio.sleep(min(wait / 1000, LOOK_SECONDS))

    async def _ask(self, turn: Turn) -> int:
        session = await self._tail.session()
        with speaking_of(session.server.address.url):
            return (await ask_rates(session, [turn]))[0]

    def _checked(self, cost: int) -> int:
        if not isinstance(cost, int) or isinstance(cost, bool) or not 1 <= cost <= self.rate.burst:
            raise BadInput(
                f"cost is {cost!r}; limiter {self.name} gives 1 to {self.rate.burst} at once ({self.rate.per}).",
                remedy="Take it in several parts, or give the limiter a larger burst.",
                field="cost",
                value=str(cost),
            )
        return cost

    def _line(self) -> asyncio.Lock:
        """One of this process asks at a time: a large cost would never find its turn behind many small ones."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(loop)
        if line is None:
            line = self._lines[loop] = asyncio.Lock()
        return line

    @property
    def sync(self) -> SyncLimiter:
        """The same, blocking."""
        return SyncLimiter(self, self._tail.portal)


class SyncLimiter:
    """Limiter, blocking."""

    def __init__(self, limiter: Limiter, portal: Portal) -> None:
        self._limiter, self._portal = limiter, portal
        self.name, self.rate = limiter.name, limiter.rate

    def take(self, cost: int = 1) -> None:
        """Returns when the rate allows so many. Raises BadInput, ServerError."""
        self._portal.call(self._limiter.take(cost))
