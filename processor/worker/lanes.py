"""Lanes: where one reaction's calls run, so many at once. A lane is a task that makes one call after the other.

So a call costs no task of its own: handlers that wait for nothing share one lane, and a second lane begins when a call waits
(a task and its callback are 2 to 3 us, a third of what an event may cost).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import structlog

from processor.client.calling import Executing, enter_reaction
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
CALLS_A_TURN: Final = 200  # of a lane; then others have theirs: what ended is settled while the next calls run
SLOW_SECONDS: Final = 0.25  # what waits so long for a lane is better off with another worker
AGAIN_SECONDS: Final = 5.0  # a call that swallowed its cancellation is cancelled again
CLOSE_SECONDS: Final = 1.0
CLOSE_TRIES: Final = 3


class Call(NamedTuple):
    """What a handler is called with: one event, or a batch of one partition."""

    deliveries: Sequence[Delivery]
    events: Sequence[Event[Any]]


class Ended(NamedTuple):
    """How a call ended: with its outputs, with an error, or stopped."""

    outputs: Sequence[Output] = _NOTHING
    error: BaseException | None = None
    stopped: Stopped = ""


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
        self._timeout_seconds = reaction.policy.timeout_seconds
        self._queue: deque[Call] = deque()
        self._lanes: set[_Lane] = set()
        self._loop = asyncio.get_running_loop()
        self._growing = False
        self._is_closed = False
        self._begun = self._mark = 0  # calls begun; those that were begun or queued at `_marked_at`
        self._marked_at = 0.0

    def put(self, call: Call) -> None:
        """Nothing begins once it is closed."""
        if self._is_closed:
            return
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

    @property
    def is_busy(self) -> bool:
        return bool(self._queue) or self.running > 0

    def is_slow(self) -> bool:
        """Whether a call has waited for a lane for SLOW_SECONDS."""
        now = self._loop.time()
        if not self._queue or self._begun >= self._mark:  # all that waited then have begun
            self._mark, self._marked_at = self._begun + len(self._queue), now
            return False
        return now - self._marked_at > SLOW_SECONDS

    def take_back(self) -> list[Call]:
        """The calls that have not begun: nobody begins them here any more."""
        calls = list(self._queue)
        self._queue.clear()
        return calls

    def stop(self, why: Stopped, calls: Sequence[Call] | None = None) -> None:
        """Cancels calls that run, all or those; each ends as `stopped` unless it ends otherwise by itself."""
        for lane in list(self._lanes):
            is_meant = lane.call is not None and (calls is None or any(lane.call is call for call in calls))
            if is_meant and (not lane.stopped or why == "drop"):
                self._cancel(lane, why)

    def sweep(self) -> None:
        """Time limits, instead of a timer for each call (asyncio.timeout is 1.5 us)."""
        now = self._loop.time()
        for lane in list(self._lanes):
            if lane.call is not None and now >= lane.deadline:
                if lane.stopped:  # it swallowed the cancellation
                    log.warning("call_goes_on", reaction=self.reaction.name, run=lane.call.deliveries[0].run)
                self._cancel(lane, lane.stopped or "timeout")

    def _cancel(self, lane: _Lane, why: Stopped) -> None:
        if lane.task is not None:
            lane.stopped, lane.deadline = why, self._loop.time() + AGAIN_SECONDS
            lane.task.cancel()

    async def close(self) -> None:
        """Nothing is said of what still runs. A call that swallows one cancellation after the other is left alone in the end."""
        self._is_closed = True
        self._queue.clear()
        for _ in range(CLOSE_TRIES):
            self.stop("drop")
            running = [lane.task for lane in self._lanes if lane.task is not None]
            if not running:
                return
            await asyncio.wait(running, timeout=CLOSE_SECONDS)
        if self._lanes:
            log.error("calls_left", reaction=self.reaction.name, calls=len(self._lanes))

    # Lanes.

    def _begin(self) -> None:
        lane = _Lane()
        self._lanes.add(lane)
        lane.task = self._loop.create_task(self._run(lane), name=f"tailrace-react-{self.reaction.name}")

    def _grow(self) -> None:
        """What is still queued after the lanes had their turn: they wait for something, and others begin beside them."""
        self._growing = False
        if not self._queue:
            return
        if any(lane.call is None for lane in self._lanes):  # it has not had its turn yet
            self._growing = True
            self._loop.call_soon(self._grow)
            return
        for _ in range(min(len(self._queue), self.reaction.policy.concurrency - len(self._lanes))):
            self._begin()

    async def _run(self, lane: _Lane) -> None:
        calls = 0
        try:
            while self._queue:
                call = self._queue.popleft()
                self._begun += 1
                ended = await self._call(lane, call)
                if lane.stopped:
                    _uncancel(lane)
                self._tell(call, ended)
                calls += 1
                if calls % CALLS_A_TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._lanes.discard(lane)

    def _tell(self, call: Call, ended: Ended) -> None:
        try:
            self._over(call, ended)
        except Exception:  # its entries stay pending, and are taken over; the lane goes on
            log.exception("call_untold", reaction=self.reaction.name, run=call.deliveries[0].run)

    async def _call(self, lane: _Lane, call: Call) -> Ended:
        reaction, events = self.reaction, call.events
        lane.call, lane.stopped = call, ""
        lane.deadline = self._loop.time() + self._timeout_seconds
        run = Run._known(reaction.tail, call.deliveries[0].run) if reaction.takes_run else None
        effects = Effects("", _nothing_live, self._max_event_bytes)
        effects.begin()
        here = Executing(None, reaction.tail, run, self._loop, events)
        enter_reaction(here)
        try:
            await reaction.call(events, run)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            return self._failed(lane, error)
        finally:
            here.ended = True
            lane.call = None
        return Ended(effects.outputs) if effects else DONE

    def _failed(self, lane: _Lane, error: BaseException) -> Ended:
        if isinstance(error, asyncio.CancelledError) and lane.stopped:
            if lane.stopped == "timeout":
                return Ended(error=TimeoutError(f"it took longer than {self.reaction.policy.timeout_seconds:g} s"))
            return Ended(stopped=lane.stopped)
        if isinstance(error, asyncio.CancelledError):
            return Ended(error=RuntimeError("the reaction cancelled itself"))
        return Ended(error=error)


def _uncancel(lane: _Lane) -> None:
    """The next call in its task was not cancelled, however this one took it."""
    while lane.task is not None and lane.task.cancelling():
        lane.task.uncancel()


def _nothing_live(event: object) -> Any:
    raise AssertionError("a reaction has no run of its own")
