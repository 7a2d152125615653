"""Connections of a crew that break in mid-reply."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from processor.store.scripts import load_script
from tests.faults.crew import LONG_SECONDS, Crew
from tests.support.proxy import Break, FaultProxy, How, Plan

__all__ = ["cut_connections", "cutting"]

HOWS: Final[tuple[How, ...]] = ("close", "reset", "silent")
AFTER: Final = (0, 1, 30, 4, 200)  # bytes of a reply


def cutting(asked: str, count: int) -> Plan:
    """Of the first so many connections each breaks where it asks for it, in ways that take turns.

    asked: "read", or the name of a script.
    """
    word = b"XREADGROUP" if asked == "read" else load_script(asked).sha

    def plan(number: int) -> Break | None:
        return Break(AFTER[number % len(AFTER)], HOWS[number % 2], word) if number <= count else None

    return plan


async def cut_connections(crew: Crew, proxy: FaultProxy, seconds: float) -> None:
    """Every connection breaks sooner or later, for so many seconds and ten times at least; then they are whole again.

    In the long form some fall silent: that costs ten seconds each until it is noticed.
    """
    weights = [6, 6, 0 if seconds < LONG_SECONDS else 1]

    def how() -> How:
        return crew.rng.choices(HOWS, weights)[0]

    def plan(number: int) -> Break:
        return Break(crew.rng.choice([0, crew.rng.randint(1, 100), crew.rng.randint(1, 20_000)]), how())

    proxy.plan = plan
    end = time.monotonic() + seconds
    while time.monotonic() < end or proxy.broke < 10:
        await asyncio.sleep(crew.rng.uniform(0, 0.6))
        proxy.break_all(how())
    proxy.plan = None
    proxy.break_all("reset")
