"""Rates and limits that all workers share: turns and places, as rate.lua and limit.lua give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from processor.core.rate import Rate
from processor.store.scripts import Scripts
from processor.store.space import Space

__all__ = ["Asking", "Place", "PlaceVerb", "Turn", "ask_places", "ask_rates"]

PlaceVerb = Literal["take", "take_over", "renew", "give_back"]
PlaceAnswer = Literal["taken", "full", "renewed", "given"]


class Asking(Space, Protocol):
    """A namespace on a server with the scripts; sessions are one."""

    @property
    def scripts(self) -> Scripts: ...


class Turn(NamedTuple):
    """A turn that somebody wants."""

    rate: Rate
    key: str  # as Rate.key has it
    cost: int = 1  # at most the rate's burst


class Place(NamedTuple):
    """What is wanted with a place of a limit."""

    verb: PlaceVerb
    key: str  # as Limit.key has it
    at_most: int
    run: str


async def ask_rates(session: Asking, wanted: Sequence[Turn]) -> list[int]:
    """For each turn 0 and it is taken, or how many milliseconds until it could be; asked and answered in this order.

    Raises ValueError if a cost is none that its rate can ever give.
    """
    if not wanted:
        return []
    for turn in wanted:
        if not 1 <= turn.cost <= turn.rate.burst:
            raise ValueError(
                f"a cost of {turn.cost} never passes a rate of {turn.rate.per} with a burst of {turn.rate.burst}"
            )
    keys = [session.keys.rate(turn.key) for turn in wanted]
    args = [arg for rate, _, cost in wanted for arg in (rate.count, rate.period_ms, rate.burst, cost)]
    reply: list[int] = await session.scripts.call("rate", keys, args)
    return reply


async def ask_places(session: Asking, holder: str, asked: Sequence[Place], term_ms: int) -> list[PlaceAnswer]:
    """What limit.lua's header says, for each in this order.

    holder: random, one of a process. term_ms: after which a place that nobody renews is free.
    """
    if not asked:
        return []
    keys = [session.keys.limit(place.key) for place in asked]
    args: list[str | bytes | int] = [holder, term_ms]
    for place in asked:
        args += (place.verb, place.at_most, place.run)
    reply = await session.scripts.call("limit", keys, args)
    return [answer.decode() for answer in reply]
