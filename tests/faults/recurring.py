"""Faults that happen to a crew again and again while it works: one function each, which returns how often."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

from tests.faults.crew import Crew

__all__ = [
    "again",
    "fill_server",
    "flush_scripts",
    "freeze_workers",
    "join_and_leave",
    "kill_server",
    "kill_workers",
    "lose_tails",
]


def again(seconds: float, times: int = 0) -> Iterator[int]:
    """0, 1, … for so many seconds, and so many times at least."""
    end = time.monotonic() + seconds
    for done in itertools.count():
        if time.monotonic() >= end and done >= times:
            return
        yield done


async def kill_server(crew: Crew, seconds: float) -> int:
    """It comes back at once, with its AOF."""
    killed = 0
    for _ in again(seconds, 3):
        await crew.goes_on(crew.rng.randint(1, 200))
        await crew.restart_server()
        killed += 1
    return killed


async def fill_server(crew: Crew, seconds: float) -> int:
    filled = 0
    for _ in again(seconds, 3):
        await crew.goes_on(crew.rng.randint(1, 60))
        async with crew.full_server():
            await asyncio.sleep(crew.rng.uniform(0.05, 0.5))  # the fault itself
        filled += 1
    return filled


async def flush_scripts(crew: Crew, seconds: float) -> int:
    """Many times a second."""
    flushed = 0
    async with crew.client() as client:
        for _ in again(seconds, 10):
            await client.script_flush()
            await crew.goes_on(3)
            flushed += 1
    return flushed


async def lose_tails(crew: Crew, seconds: float) -> int:
    """Returns how many bytes the server forgot."""
    lost = 0
    for _ in again(seconds):
        await crew.goes_on(crew.rng.randint(1, 100))
        lost += await crew.lose_last(crew.rng.uniform(0, 0.4))  # producers keep what they were told for 3 s
    return lost


async def kill_workers(crew: Crew, seconds: float, *, functions: int, times: int = 0) -> int:
    """kill -9 of one after the other, each replaced. functions: that are begun between two of them, at most."""
    killed = 0
    for _ in again(seconds, times):
        await crew.goes_on(crew.rng.randint(1, functions))
        await crew.kill_worker(crew.any_worker())
        await crew.begin_worker()
        killed += 1
    return killed


async def freeze_workers(crew: Crew, seconds: float) -> int:
    """For longer than the visibility timeout, mostly."""
    frozen = 0
    for _ in again(seconds):
        await crew.goes_on(crew.rng.randint(1, 60))
        await crew.freeze_worker(crew.any_worker(), crew.visibility_seconds * crew.rng.uniform(0.8, 2))
        frozen += 1
    return frozen


async def join_and_leave(crew: Crew, seconds: float, *, team: int, functions: int, times: int) -> int:
    """As they are told to. team: workers in full strength. functions: as `kill_workers` has it. times: that leave, at least."""
    end, left = time.monotonic() + seconds, 0
    while time.monotonic() < end or left < times:
        await crew.begin_workers(team - len(crew.workers))
        await crew.goes_on(crew.rng.randint(1, functions))
        leaving = crew.rng.sample([*crew.workers.values()], crew.rng.randint(1, team - 1))
        await asyncio.gather(*(crew.stop_worker(worker) for worker in leaving))
        left += len(leaving)
        await crew.goes_on(crew.rng.randint(1, functions))
    return left
