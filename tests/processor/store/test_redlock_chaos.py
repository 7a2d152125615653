"""RedLock under chaos: who held the lock when, and never two at once."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.processor.store.lock_servers import LockDaemons, Party, running_lock_servers
from tests.support.faketime import ClockedDaemon
from tests.support.until import until

TTL_MS = 400
LONG_TTL_MS = 2_000  # longer than the steps of a test take
SEED = int(os.environ.get("TAILRACE_SEED", random.randrange(1 << 32)))

pytestmark = pytest.mark.holds_loop  # servers are started and asked from the test's own thread


@pytest.fixture
async def daemons() -> AsyncIterator[LockDaemons]:
    """Five servers, running for longer than a TTL."""
    with running_lock_servers(5) as five:
        await five.is_old(range(5), TTL_MS)
        yield five


class _Witness:
    """Who held the lock when; all by one clock."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float, int]] = []

    async def hold(self, who: int, party: Party, draw: random.Random, stop: asyncio.Event) -> None:
        """Wins, extends a few times, gives back or dies, again and again."""
        lock = party.lock
        while not stop.is_set():
            held = await lock.acquire()
            if held is None:
                await asyncio.sleep(draw.uniform(0, TTL_MS / 4000))
                continue
            since = time.monotonic()
            for _ in range(draw.choice([0, 1, 5])):
                await asyncio.sleep(draw.uniform(0, TTL_MS / 2000))
                held = await lock.extend(held) or held
            dies = draw.random() < 0.3
            until_ = held.valid_until / party.rate if dies else min(held.valid_until / party.rate, time.monotonic())
            self.spans.append((since, until_, who))
            if not dies:
                await lock.release(held)

    def overlaps(self) -> list[tuple[tuple[float, float, int], tuple[float, float, int]]]:
        spans = sorted(self.spans)
        return [(a, b) for a, b in pairwise(spans) if b[0] < a[1]]


Trouble = Callable[[LockDaemons, int], None]


def _never(daemons: LockDaemons, number: int) -> None:
    """Its clock stands: what it holds does not expire."""
    with daemons.client(number) as client:
        client.persist("lock")


def _freeze(daemons: LockDaemons, number: int) -> None:
    daemons.freeze(number)


def _restart(daemons: LockDaemons, number: int) -> None:
    daemons.restart(number)


# None of them forgets a lock too early: two majorities of three have one server in common, and if that one does while another
# is silent, nobody could tell. test_redlock.py has the clock that leaps while the others answer.
TROUBLES: list[Trouble] = [_never, _freeze, _restart]


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.soak)])
async def test_never_two(daemons: LockDaemons, count: int, seconds: float) -> None:
    """While fewer than the majority are killed, frozen or never forget, no two candidates hold a valid lock at once, though
    their own clocks differ by 1 %; and it goes on being won."""
    print("seed", SEED)
    draw = random.Random(SEED)
    bad = draw.sample(range(count), count - count // 2 - 1)
    witness, stop = _Witness(), asyncio.Event()
    group = [Party(daemons.urls[:count], "lock", ttl_ms=TTL_MS, rate=draw.choice([0.995, 1, 1.005])) for _ in range(4)]
    holding = [
        asyncio.create_task(witness.hold(who, party, random.Random(draw.random()), stop))
        for who, party in enumerate(group)
    ]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = draw.choice(bad)
        daemons.thaw(number)
        draw.choice(TROUBLES)(daemons, number)
        await asyncio.sleep(draw.uniform(0.01, TTL_MS / 1000))
    stop.set()
    for number in bad:
        daemons.thaw(number)
    await asyncio.gather(*holding)
    for party in group:
        await party.close()
    assert not witness.overlaps(), SEED
    assert len(witness.spans) >= 4


async def test_restarts_one_after_the_other(daemons: LockDaemons) -> None:
    """Even when every one of three servers is killed and comes back empty, again and again, there are never two."""
    print("seed", SEED)
    draw = random.Random(SEED)
    witness, stop = _Witness(), asyncio.Event()
    group = [Party(daemons.urls[:3], "lock", ttl_ms=TTL_MS) for _ in range(3)]
    holding = [
        asyncio.create_task(witness.hold(who, party, random.Random(draw.random()), stop))
        for who, party in enumerate(group)
    ]
    for _ in range(4):
        await asyncio.sleep(draw.uniform(0.1, 1))
        daemons.restart(draw.randrange(3))
    await daemons.is_old(range(3), TTL_MS)
    before = len(witness.spans)
    await until(lambda: len(witness.spans) > before + 2, "it is won again", 5)
    stop.set()
    await asyncio.gather(*holding)
    for party in group:
        await party.close()
    assert not witness.overlaps(), SEED


async def test_a_clock_that_leaps() -> None:
    """One of three servers has a clock that leaps by an hour, ahead and back: who holds the others keeps the lock, and it can
    be won again afterwards."""
    made: list[ClockedDaemon] = []

    def clocked(folder: Path) -> ClockedDaemon:
        made.append(ClockedDaemon(folder))
        return made[0]

    with running_lock_servers(3, clocked) as daemons:
        await daemons.is_old(range(3), LONG_TTL_MS)
        first, second = (Party(daemons.urls, "lock", ttl_ms=LONG_TTL_MS) for _ in range(2))
        for seconds in (3600, 0, -3600, 0, 3600, -3600):
            held = await first.lock.acquire()
            assert held is not None
            made[0].move(seconds)
            assert await second.lock.acquire() is None
            assert first.lock.seconds_left(held) > 0
            await first.lock.release(held)
        for party in (first, second):
            await party.close()
