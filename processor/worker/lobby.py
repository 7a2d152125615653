"""Executions that a rate or a limit refused: near their turn they wait in this process, else they are put off.

To put one off means to write it down at the server and to look for it again, twice a second: too long a way for a limit whose
places come free every few milliseconds. So what is near its turn waits here, with its entry in the worker's hands, and begins
as soon as a place is given back. What is put off comes back one behind the other rather than all at once.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from processor.store.executing import Taken
from processor.worker.gate import Gate, Guarded, Line, line_of

__all__ = ["Guest", "Lobby"]

NEAR_MS: Final = 1_000  # who would wait longer is put off
MOST_APART_MS: Final = 30_000  # that those who were put off come back behind the first
MANY_LINES: Final = 100  # from here on those are forgotten that nobody comes back to
STAY_SECONDS: Final = 5.0  # then somebody else may come near
STOP_SECONDS: Final = 2.0  # for the answer to those who ask; without one they are claimed by other workers


class Guest(Protocol):
    """What of an execution counts here."""

    @property
    def taken(self) -> Taken: ...
    @property
    def task(self) -> Guarded: ...
    @property
    def is_suspect(self) -> bool: ...
    def give_back(self, delay_ms: int | None = None) -> None: ...


G = TypeVar("G", bound=Guest)


class _Waiting(NamedTuple, Generic[G]):
    guest: G
    since: float
    due: float  # when to ask again
    line: Line  # of rate and limit


class Lobby(Generic[G]):
    """One worker's. Belongs to one event loop."""

    def __init__(
        self,
        gate: Gate,
        begin: Callable[[list[G]], Awaitable[None]],
        *,
        places: int,
        apart: bool = True,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """begin: is given those that may begin. places: how many may wait here. apart: False where the server's time is another
        than this loop's (a sandbox). draw: random in [0, 1)."""
        self._gate, self._begin, self._places, self._draw = gate, begin, places, draw
        self._is_apart = apart
        self._now = asyncio.get_running_loop().time
        self._waiting: list[_Waiting[G]] = []
        self._asking: list[_Waiting[G]] = []
        self._back: dict[Line, list[float]] = {}  # heap of the times when those who were put off come back
        self._emptied = 0  # how often all were given back
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        gate.on_free = self._freed

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asking)

    def wait(self, guest: G, first_ms: int) -> None:
        """It was refused, and the first of those who wait for the same may ask again after first_ms."""
        line = line_of(guest.taken, guest.task)
        spacing = self._gate.spacing_ms(guest.taken, guest.task)
        wait_ms = first_ms + spacing * sum(one.line == line for one in self._waiting)
        if wait_ms > NEAR_MS or len(self) >= self._places or guest.is_suspect:
            guest.give_back(self._apart(line, first_ms, spacing))
            return
        now = self._now()
        self._let_wait(_Waiting(guest, now, now + wait_ms / 1000, line))

    def _apart(self, line: Line, first_ms: int, spacing_ms: float) -> int:
        """When one that is put off comes back: behind those who were, MOST_APART_MS behind the first at most."""
        if not self._is_apart:
            return first_ms
        now = self._now()
        if len(self._back) > MANY_LINES:
            self._back = {line: back for line, back in self._back.items() if max(back, default=now) > now}
        back = self._back.setdefault(line, [])
        while back and back[0] <= now:
            heapq.heappop(back)
        behind = spacing_ms * len(back)
        if behind > MOST_APART_MS:
            behind = MOST_APART_MS * self._draw()
        wait = int(first_ms + behind)
        heapq.heappush(back, now + wait / 1000)
        return wait

    def give_back(self) -> None:
        """All that wait here go to other workers, also those who are just asking."""
        self._emptied += 1
        for one in self._waiting:
            one.guest.give_back()
        self._waiting.clear()

    async def close(self) -> None:
        """Gives back all, in STOP_SECONDS at most. Nobody is let in again."""
        self._places = 0
        self.give_back()
        self._woken.set()
        if self._task is not None and not (await asyncio.wait([self._task], timeout=STOP_SECONDS))[0]:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _let_wait(self, one: _Waiting[G]) -> None:
        self._waiting.append(one)
        self._woken.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._serve(), name="tailrace-lobby")

    def _freed(self, limit: str) -> None:
        """A place of this limit was given back: the first who waits for it asks at once."""
        now = self._now()
        waiting = [at for at, one in enumerate(self._waiting) if one.line.limit == limit and one.due > now]
        if waiting:
            self._waiting[waiting[0]] = self._waiting[waiting[0]]._replace(due=now)
            self._woken.set()

    async def _serve(self) -> None:
        """While anybody waits."""
        while self._waiting:
            self._woken.clear()
            now = self._now()
            self._waiting = _in_line(self._waiting)
            self._asking = [one for one in self._waiting if one.due <= now]
            if not self._asking:
                await self._sleep(min(one.due for one in self._waiting) - now)
                continue
            self._waiting = [one for one in self._waiting if one.due > now]
            await self._ask()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _ask(self) -> None:
        asking, emptied = self._asking, self._emptied
        waits = await self._gate.ask([(one.guest.taken, one.guest.task) for one in asking])
        self._asking = []
        if emptied != self._emptied:
            for one in asking:
                one.guest.give_back()
            return
        now = self._now()
        behind: dict[Line, float] = {}
        for one, first_ms in zip(asking, waits, strict=True):
            if not first_ms:
                continue
            spacing = self._gate.spacing_ms(one.guest.taken, one.guest.task)
            wait_ms = first_ms + behind.get(one.line, 0.0)
            if wait_ms > NEAR_MS or now - one.since > STAY_SECONDS:
                one.guest.give_back(self._apart(one.line, first_ms, spacing))
            else:
                behind[one.line] = behind.get(one.line, 0.0) + spacing
                self._let_wait(one._replace(due=now + wait_ms / 1000))
        ready = [one.guest for one, wait_ms in zip(asking, waits, strict=True) if not wait_ms]
        if ready:
            await self._begin(ready)


def _in_line(waiting: Sequence[_Waiting[G]]) -> list[_Waiting[G]]:
    """In the order in which they came, the first of each line being the first to ask."""
    ordered = sorted(waiting, key=lambda one: one.since)
    dues: dict[Line, list[float]] = {}
    for one in sorted(waiting, key=lambda one: -one.due):
        dues.setdefault(one.line, []).append(one.due)
    return [one._replace(due=dues[one.line].pop()) for one in ordered]
