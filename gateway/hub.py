"""The hub: all subscribers of an event loop, one timer for their heartbeats, and their end when the process drains."""

from __future__ import annotations

import asyncio
import random
import weakref
from typing import Final

import structlog

from gateway.core import sse
from gateway.subscriber import Subscriber
from processor.observe import metrics

__all__ = ["Hub", "drain_all"]

log = structlog.get_logger("tailrace.hub")

TICKS: Final = 15  # a heartbeat period is cut into; so it comes at most a fifteenth late
DRAINING_SECONDS: Final = 30.0  # behind it a process that is still there was not ended after all
RECONNECT_MS: Final = (500, 3000)


class Hub:
    """All subscribers of an event loop that share a heartbeat period."""

    def __init__(self, heartbeat_seconds: float) -> None:
        self.tick = 0
        self.frames = 0  # since the last tick
        self.draining = False
        self._tick_seconds = heartbeat_seconds / TICKS
        self._subscribers: set[Subscriber] = set()
        self._buckets: dict[int, set[Subscriber]] = {}  # by the tick at which they are looked at
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of_loop(cls, heartbeat_seconds: float) -> Hub:
        hubs = _hubs.setdefault(asyncio.get_running_loop(), {})
        hub = hubs.get(heartbeat_seconds)
        if hub is None:
            hub = hubs[heartbeat_seconds] = cls(heartbeat_seconds)
        return hub

    def add(self, subscriber: Subscriber) -> None:
        self._subscribers.add(subscriber)
        subscriber.touched = self.tick
        self._look_at(subscriber, self.tick + TICKS)
        metrics.subscribers.inc()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._beat)
        if self.draining:
            self._send_away(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        self._subscribers.discard(subscriber)
        self._buckets.get(subscriber.bucket, set()).discard(subscriber)
        metrics.subscribers.dec()

    def _look_at(self, subscriber: Subscriber, tick: int) -> None:
        subscriber.bucket = tick
        self._buckets.setdefault(tick, set()).add(subscriber)

    def _beat(self) -> None:
        self.tick += 1
        if self.frames:
            metrics.frames_total.inc(self.frames)
            self.frames = 0
        for subscriber in self._buckets.pop(self.tick, ()):
            due = subscriber.touched + TICKS
            if due <= self.tick:
                try:
                    subscriber.heartbeat()
                except Exception:  # one subscriber's fault: the others must hear all the same
                    log.exception("heartbeat_failed")
                due = self.tick + TICKS
            self._look_at(subscriber, due)
        self._timer = None
        if self._subscribers:
            self._timer = asyncio.get_running_loop().call_later(self._tick_seconds, self._beat)

    def drain(self) -> None:
        """Ends all streams at once, with a hint when to come back; new ones as well, while the process is about to end."""
        self.draining = True
        asyncio.get_running_loop().call_later(DRAINING_SECONDS, self._drained)
        for subscriber in list(self._subscribers):
            self._send_away(subscriber)

    def _drained(self) -> None:
        self.draining = False

    def _send_away(self, subscriber: Subscriber) -> None:
        try:
            subscriber.break_off(sse.reconnect(random.randint(*RECONNECT_MS)))
        except Exception:  # as with heartbeats: the others must end all the same
            log.exception("drain_failed")


_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, Hub]] = weakref.WeakKeyDictionary()


def drain_all() -> None:
    """Ends the streams of all loops of this process; may be called from any thread, and from a signal handler."""
    for loop, hubs in list(_hubs.items()):
        for hub in hubs.values():
            if not loop.is_closed():
                loop.call_soon_threadsafe(hub.drain)
