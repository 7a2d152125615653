"""Lanes: where one reaction's calls run, so many at once. A lane is a task that makes one call after the other.

So a call costs no task of its own: handlers that wait for nothing share one lane, and a second lane begins when a call waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import structlog

from processor.client.calling import enter_reaction
from processor.client.effects import Effects
from processor.client.reaction import Reaction
from processor.client.run import Run
from processor.core.events import Event
from processor.store.executing import Output
from processor.store.reacting import Delivery

__all__ = ["Call", "Ended", "Lanes"]

log = structlog.get_logger("tailrace.reactions")

Stopped = Literal["", "timeout", "release", "drop"]
"""Why a call was cancelled. release: for another worker. drop: nothing is said of it."""
_NOTHING: Final[Sequence[Output]] = ()


class Call(NamedTuple):
    """What a handler is called with: one event, or a batch of one partition."""

    deliveries: Sequence[Delivery]
    events: Sequence[Event[Any]]


class Ended(NamedTuple):
    """How a call ended: with its outputs, with an error, or stopped."""

    outputs: Sequence[Output] = _NOTHING
    error: BaseException | None = None
    stopped: Stopped = ""
    size: int = 0  # of the outputs, in bytes, about


DONE: Final = Ended()


class _Lane:
    __slots__ = ("call", "deadline", "stopped", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.call: Call | None = None
        self.deadline = float("inf")
        self.stopped: Stopped = ""


class Lanes:
    """Belongs to one event loop."""

    def __init__(self, reaction: Reaction, max_event_bytes: int, over: Callable[[Call, Ended], None]) -> None:
        """over: called once for each call, in the lane's own turn."""
        self.reaction = reaction
        self._over = over
        self._max_event_bytes = max_event_bytes
        self._queue: deque[Call] = deque()
        self._lanes: set[_Lane] = set()
        self._loop = asyncio.get_running_loop()
        self._growing = False

    def put(self, call: Call) -> None:
        self._queue.append(call)
        if not self._lanes:
            self._begin()
        if not self._growing and len(self._lanes) < self.reaction.policy.concurrency:
            self._growing = True
            self._loop.call_soon(self._grow)

    @property
    def queued(self) -> int:
        """Calls that wait for a lane."""
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(1 for lane in self._lanes if lane.call is not None)

    def __iter__(self) -> Iterator[Call]:
        """The calls that run."""
        return iter([lane.call for lane in self._lanes if lane.call is not None])

    def take_back(self) -> list[Call]:
        """The calls that have not begun: nobody begins them here any more."""
        calls = list(self._queue)
        self._queue.clear()
        return calls

    def stop(self, why: Stopped, calls: Sequence[Call] | None = None) -> None:
        """Cancels calls that run, all or those; each ends as `stopped` unless it ends otherwise by itself."""
        for lane in list(self._lanes):
            if lane.call is not None and (calls is None or any(lane.call is call for call in calls)):
                self._stop(lane, why)

    def sweep(self) -> None:
        """Time limits, instead of a timer for each call."""
        now = self._loop.time()
        for lane in list(self._lanes):
            if lane.call is not None and now >= lane.deadline:
                self._stop(lane, "timeout")

    def _stop(self, lane: _Lane, why: Stopped) -> None:
        if lane.task is not None and (not lane.stopped or why == "drop"):
            lane.stopped = why
            lane.task.cancel()

    async def close(self) -> None:
        """Nothing is said of what still runs."""
        self._queue.clear()
        self.stop("drop")
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # Lanes.

    def _begin(self) -> None:
        lane = _Lane()
        self._lanes.add(lane)
        lane.task = self._loop.create_task(self._run(lane), name=f"tailrace-react-{self.reaction.name}")

    def _grow(self) -> None:
        """What is still queued after the lanes had their turn: they wait for something, and others begin beside them."""
        self._growing = False
        if self._queue and not any(lane.call is not None for lane in self._lanes):  # they have not had it yet
            self._growing = True
            self._loop.call_soon(self._grow)
            return
        idle = sum(1 for lane in self._lanes if lane.call is None)
        for _ in range(min(len(self._queue) - idle, self.reaction.policy.concurrency - len(self._lanes))):
            self._begin()

    async def _run(self, lane: _Lane) -> None:
        try:
            while self._queue:
                call = self._queue.popleft()
                self._tell(call, await self._call(lane, call))
        finally:
            self._lanes.discard(lane)

    def _tell(self, call: Call, ended: Ended) -> None:
        try:
            self._over(call, ended)
        except Exception:  # its entries stay pending, and are taken over; the lane goes on
            log.exception("call_untold", reaction=self.reaction.name, run=call.deliveries[0].run)

    async def _call(self, lane: _Lane, call: Call) -> Ended:
        lane.call, lane.stopped = call, ""
        lane.deadline = self._loop.time() + self.reaction.policy.timeout_seconds
        run = Run._known(self.reaction.tail, call.deliveries[0].run)
        effects = Effects("", _nothing_live, self._max_event_bytes)
        effects.begin()
        here = enter_reaction(run, call.events)
        try:
            await self.reaction.call(call.events, run)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            return self._failed(lane, error)
        finally:
            here.ended = True
            lane.call = None
        return Ended(effects.outputs, size=effects.size) if effects else DONE

    def _failed(self, lane: _Lane, error: BaseException) -> Ended:
        if isinstance(error, asyncio.CancelledError) and lane.stopped:
            if lane.task is not None:
                lane.task.uncancel()
            if lane.stopped == "timeout":
                return Ended(error=TimeoutError(f"it took longer than {self.reaction.policy.timeout_seconds:g} s"))
            return Ended(stopped=lane.stopped)
        if isinstance(error, asyncio.CancelledError):
            return Ended(error=RuntimeError("the reaction cancelled itself"))
        return Ended(error=error)


def _nothing_live(event: object) -> Any:
    raise AssertionError("a reaction has no run of its own")
