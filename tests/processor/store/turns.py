"""A namespace for rates and limits on a server whose time is ours, and what they must be: GCRA and places in plain Python."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

from redis.asyncio import Redis

from processor.core.keys import Keyspace
from processor.core.rate import Rate
from processor.store.rates import Place, Turn, ask_places, ask_rates
from processor.store.scripts import Script, Scripts
from tests.processor.store.stage import CLOCK, LIMITS, Clocked
from tests.support.servers import TestServer

__all__ = ["TERM_MS", "Gcra", "Places", "Turns", "turn"]

T = TypeVar("T")
TERM_MS = 30_000


class _Lasting(Clocked):
    """Levels whose time to live is no matter: it runs in real time, which our clock knows nothing of."""

    def named(self, name: str) -> Script:
        text = super().named(name).text.replace(b"'PX', whole(math.ceil(after / count))", b"'PX', 600000")
        return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


class Turns:
    """What ask_rates and ask_places take for a session. `now` is the server's time in ms and may be set. Close it."""

    def __init__(self, server: TestServer, namespace: str) -> None:
        self.keys = Keyspace(namespace, "2 abcdef")
        self.redis = Redis.from_url(server.url, protocol=2)
        shebang = server.kind != "fake"
        self.scripts: Scripts = _Lasting(self.redis, LIMITS, shebang=shebang)
        self.plain = Clocked(self.redis, LIMITS, shebang=shebang)
        self.client = server.client()
        self.now = 1_700_000_000_000
        self._told = 0  # what the server takes for the time
        self._runner = asyncio.Runner()

    def close(self) -> None:
        for name in self.client.scan_iter(f"tr:{{{self.keys.namespace}*", count=1000):
            self.client.delete(name)
        self.client.delete(CLOCK)
        self.client.close()
        self._runner.run(self.redis.aclose())
        self._runner.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        if self._told != self.now:
            self.client.set(CLOCK, self.now)
            self._told = self.now
        return self._runner.run(call)

    def ask(self, *wanted: Turn) -> list[int]:
        return self.run(ask_rates(self, wanted))

    def places(self, holder: str, *asked: Place) -> list[str]:
        return list(self.run(ask_places(self, holder, asked, TERM_MS)))


class Gcra:
    """The virtual scheduling algorithm of ITU-T I.371 in exact fractions, one theoretical arrival time a key."""

    def __init__(self) -> None:
        self._tat: dict[str, Fraction] = {}
        self._written: dict[str, int] = {}

    def ask(self, turn: Turn, now: int) -> int:
        """0 and it is taken, or how many ms until it could be."""
        rate, key, cost = turn
        interval = Fraction(rate.period_ms, rate.count)
        tat = self._tat.get(key, Fraction(now))
        written = self._written.get(key, now)
        if now < written:  # the clock went back, and the arrival time goes with it
            tat -= written - now
            self._tat[key], self._written[key] = tat, now
        tat = max(tat, Fraction(now))
        wait = tat + cost * interval - rate.burst * interval - now
        if wait > 0:
            return math.ceil(wait)
        self._tat[key], self._written[key] = tat + cost * interval, now
        return 0


@dataclass
class _Shared:
    until: dict[tuple[str, str], int] = field(default_factory=dict)
    seen: int | None = None
    calm: int | None = None


class Places:
    """The rule of limits: places expire, but none within a term after a silence, at most once in five terms."""

    def __init__(self) -> None:
        self._shared: dict[str, _Shared] = {}

    def ask(self, holder: str, asked: Sequence[Place], now: int) -> list[str]:
        return [self._ask(holder, place, now) for place in asked]

    def _ask(self, holder: str, place: Place, now: int) -> str:
        shared, mine = self._shared.setdefault(place.key, _Shared()), (place.run, holder)
        if place.verb == "give_back":
            shared.until.pop(mine, None)
        self._look(shared, now)
        if place.verb == "renew":
            shared.until[mine] = now + TERM_MS
            return "renewed"
        if place.verb == "give_back":
            self._forget(shared, now)
            if not shared.until:
                del self._shared[place.key]
            return "given"
        if mine not in shared.until:
            if place.verb == "take_over":
                shared.until = {key: until for key, until in shared.until.items() if key[0] != place.run}
            self._forget(shared, now)
            if len(shared.until) >= place.at_most:
                return "full"
        shared.until[mine] = now + TERM_MS
        return "taken"

    def _look(self, shared: _Shared, now: int) -> None:
        silent = shared.seen is not None and not 0 <= now - shared.seen <= TERM_MS // 3
        if silent and (shared.calm is None or not now <= shared.calm <= now + 5 * TERM_MS):
            shared.calm = now + 5 * TERM_MS
            shared.until = {key: min(until, now + TERM_MS) for key, until in shared.until.items()}
        shared.seen = now

    def _forget(self, shared: _Shared, now: int) -> None:
        if shared.calm is None or now >= shared.calm - 4 * TERM_MS:
            shared.until = {key: until for key, until in shared.until.items() if until >= now}
            if shared.calm is not None and shared.calm < now:
                shared.calm = None


def turn(per: str, key: str = "k", cost: int = 1, burst: int = 0) -> Turn:
    return Turn(Rate(per, burst=burst), key, cost)
