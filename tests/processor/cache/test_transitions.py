"""cache_*.lua against a small model: any order of calls, renewals, drops, deaths and passing time."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from processor import Tailrace
from processor.cache import entries
from processor.cache.entries import Taken
from processor.client.session import Session
from tests.support.servers import TestServer

# Time passes in whole seconds and ends between them, so half a second that a step itself takes does no harm.
TERM_MS, TTL_MS, TOOK_MS = 2500, 10_500, 1000


@dataclass
class Model:
    """One entry. Times in ms."""

    now: int = 0
    value: bytes | None = None
    until: int = 0
    claim: str = ""
    claim_until: int = 0

    @property
    def good(self) -> bytes | None:
        return self.value if self.now < self.until else None

    def take(self, token: str, stretch: int) -> Taken:
        good, left = self.good, self.until - self.now
        if good is not None and self.claim != token and left > TOOK_MS * stretch:
            return Taken("hit", good)
        if self.claim not in ("", token) and self.now < self.claim_until:
            return Taken("hit", good) if good is not None else Taken("wait")
        self.claim, self.claim_until = token, self.now + TERM_MS
        return Taken("mine", good)

    def renew(self, token: str) -> bool:
        if self.claim != token:
            return False
        self.claim_until = self.now + TERM_MS
        return True

    def put(self, token: str, frame: bytes) -> bool:
        if self.claim != token:
            return False
        self.value, self.until, self.claim = frame, self.now + TTL_MS, ""
        return True

    def give_up(self, token: str) -> bool:
        if self.claim != token:
            return False
        self.claim = ""
        return True

    def drop(self) -> None:
        self.value, self.until, self.claim = None, 0, ""


@pytest.fixture
async def session(every_server: TestServer, namespace: str) -> AsyncIterator[Session]:
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        yield await tail.session()


@pytest.mark.parametrize("seed", range(6))
async def test_any_order(session: Session, every_server: TestServer, seed: int) -> None:
    """Every answer is the model's. An entry that nobody claims any more goes by itself. (Time passes on the fake alone.)"""
    print(f"seed {seed}")
    draw, model = random.Random(seed), Model()
    key, tokens = session.keys.cache("f", f"{seed:032x}"), ["a", "b", "c"]
    said: list[object] = []
    looks = 5 if every_server.kind == "fake" else 1  # where a pipeline takes 40 ms
    began = time.time()
    for step in range(250):
        if every_server.clock is not None:
            every_server.clock.ahead = began + model.now / 1000 - time.time()
        token = draw.choice(tokens)
        what = draw.choice(["take", "take", "put", "renew", "give_up", "drop", "wait", "wait"])
        said.append((what, token))
        if what == "take":
            stretch = draw.choice([0, 0, 3, 100])
            taken = await entries.take(session, key, token, TERM_MS, stretch)
            assert taken._replace(left_ms=0) == model.take(token, stretch), said
        elif what == "put":
            frame = b"v%d" % step
            assert await entries.put(session, key, token, frame, TTL_MS, TOOK_MS) == model.put(token, frame), said
        elif what == "renew":
            assert await entries.renew(session, key, token, TERM_MS) == model.renew(token), said
        elif what == "give_up":
            assert await entries.drop(session, key, token) == model.give_up(token), said
        elif what == "drop" and draw.random() < 0.3:
            await entries.drop(session, key)
            model.drop()
        elif what == "wait" and every_server.clock is not None:
            model.now += draw.choice([1, 1, 2, 4]) * 1000
            every_server.clock.ahead = began + model.now / 1000 - time.time()
            if model.now >= max(model.until, model.claim_until + TERM_MS):
                model.drop()  # its TTL is over, and a claim that ended with it is nobody's
        if step % looks == 0:
            found = await entries.peek(session, key)
            assert (found[0] if found is not None else None) == model.good, said
    ttl = await session.redis.pttl(key)
    assert ttl == -2 or 0 < ttl <= TTL_MS + 2 * TERM_MS
