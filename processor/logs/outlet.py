"""The way of all records of a process into their runs: bounded, never waiting, from any thread, also in a signal handler.

A record is put into the writer of its run by the loop that the writer belongs to: at once where that loop's own code logs,
else by a call to the loop. What is on its way is counted, and what would be too much is dropped, counted and told.

A signal handler may run between any two instructions of the main thread. So nothing here waits for a lock that the
interrupted code may hold, counts are lengths of deques (which change in one step), and writers, which may be half way
through a change, are left alone where they stand on the stack.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import deque
from itertools import repeat
from types import FrameType
from typing import Final

import structlog

from processor import core, store
from processor.core.chain import Outcome
from processor.core.errors import TailraceError
from processor.core.events import OVERHEAD, Fields, compose, plain
from processor.logs import counts
from processor.logs.lines import Line
from processor.logs.targets import Live, Target
from processor.store.writer import Sent, Writer

__all__ = ["Outlet", "outlet"]

log = structlog.get_logger("tailrace.logs")

CAPACITY: Final = 8192  # records on their way, each counted by its KiB: 8 MiB at most
MAX_TOLD: Final = 256  # runs whose drops are counted one by one
MAX_ENDED: Final = 1024  # runs that are known to take nothing more
ENDED_SECONDS: Final = 60.0  # so long they are not asked again: an ID may be used anew once its run was forgotten
_OURS: Final = os.path.dirname(__file__)
_HALF_WAY: Final = tuple(
    os.path.join(folder, name)
    for folder, name in (
        (next(iter(core.__path__)), "chain.py"),
        (next(iter(store.__path__)), "append.py"),
        (next(iter(store.__path__)), "writer.py"),
        (next(iter(store.__path__)), "connection.py"),
    )
)


class _Record(Sent):
    """A record on its way. What becomes of it is nobody's failure but its own."""

    __slots__ = ("lane", "target", "units")

    def __init__(self, writer: Writer, draft: Fields, lane: _Lane, target: Target, units: int) -> None:
        super().__init__(writer, draft)
        self.lane, self.target, self.units = lane, target, units

    @property
    def told_to_nobody(self) -> bool:
        return False

    def settle(self, outcome: Outcome) -> None:
        super().settle(outcome)
        self.lane.settled(self.target, self.units, outcome)


class _Lane:
    """Of one loop. Everything but `put` happens in it."""

    def __init__(self, owner: Outlet, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.held: deque[None] = deque()  # one for each unit on its way
        self.waiting: deque[tuple[Target, bytes, int]] = deque()
        self.idle: deque[threading.Event] = deque()  # set when nothing is on its way
        self._owner = owner
        self._is_called = False

    def put(self, target: Target, data: bytes, units: int) -> None:
        """From any thread."""
        self.held.extend(repeat(None, units))
        if _runs_here(self.loop) and not _is_half_way():
            if self.waiting:
                self.drain()
            self._write(target, data, units)
            return
        self.waiting.append((target, data, units))
        self.call()

    def call(self) -> None:
        """Lets the loop look at what waits, from any thread."""
        if self._is_called:
            return
        self._is_called = True
        try:
            self.loop.call_soon_threadsafe(self.drain)
        except RuntimeError:  # closed: nobody is going to send it
            self._is_called = False
            self.give_up()

    def drain(self) -> None:
        self._is_called = False  # first: what comes from now on calls again
        while self.waiting:
            self._write(*self.waiting.popleft())
        if self._owner.has_to_tell:
            self._owner.tell_missed()
        if not self.held:
            self.wake_idle()

    def give_up(self) -> None:
        lost = 0
        while self.waiting:
            self.waiting.popleft()
            lost += 1
        self.held.clear()
        self.wake_idle()
        counts.add("closed", lost)

    def _write(self, target: Target, data: bytes, units: int) -> None:
        if self._owner.has_ended(target):
            self._drop(units, "ended")
            return
        try:
            writer = target.writer()
        except (TailraceError, RuntimeError) as error:
            self._drop(units, "refused")
            self._owner.tell_once(target.run, getattr(error, "code", "closed"), str(error))
            return
        if not writer.has_room:
            self._drop(units, "full")
            self._owner.missed(target)
            return
        draft = plain("log", compose("log", data, attempt=target.attempt))
        writer.admit_now(_Record(writer, draft, self, target, units))

    def settled(self, target: Target, units: int, outcome: Outcome) -> None:
        self._release(units)
        if not outcome.accepted:
            counts.add("refused", 1)
            self._owner.refused(target, outcome)
        if self._owner.has_to_tell or (self.idle and not self.held):
            self.call()  # not from here: the writer is in the midst of taking its answers

    def _drop(self, units: int, reason: str) -> None:
        self._release(units)
        counts.add(reason, 1)

    def _release(self, units: int) -> None:
        for _ in range(min(units, len(self.held))):
            self.held.pop()

    def wake_idle(self) -> None:
        while self.idle:
            self.idle.popleft().set()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _is_half_way() -> bool:
    """Whether a signal handler interrupted what changes writers: user code is called by none of it."""
    if threading.get_ident() != threading.main_thread().ident:
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    while frame is not None:
        name = frame.f_code.co_filename
        if name in _HALF_WAY or name.startswith(_OURS):
            return True
        frame = frame.f_back
    return False


class Outlet:
    """One for a process."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._lanes: tuple[_Lane, ...] = ()
        self._lock = threading.RLock()  # held for a few instructions, and a signal handler may take it again
        self._missed: dict[Target, int] = {}
        self._told: set[tuple[str, str]] = set()
        self._ended: dict[Target, float] = {}  # until when they are believed to be so

    @property
    def on_their_way(self) -> int:
        """Records, each counted by its KiB."""
        return sum(len(lane.held) for lane in self._lanes)

    @property
    def has_to_tell(self) -> bool:
        """Whether records were dropped and there is much room by now."""
        return bool(self._missed) and self.on_their_way <= self.capacity // 2

    def put(self, target: Target, line: Line) -> None:
        """Never waits. Raises only what is a bug."""
        data = line.encode((target.tail.settings.max_event_kib << 10) - 64)
        units = 1 + (len(data) + OVERHEAD >> 10)
        if self.on_their_way + units > self.capacity:
            self._forget_closed()
            if self.on_their_way + units > self.capacity:
                counts.add("full", 1)
                self.missed(target)
                return
        self._lane(target.loop).put(target, data, units)

    def _lane(self, loop: asyncio.AbstractEventLoop) -> _Lane:
        for lane in self._lanes:
            if lane.loop is loop:
                return lane
        with self._lock:
            self._forget_closed()
            for lane in self._lanes:
                if lane.loop is loop:
                    return lane
            lane = _Lane(self, loop)
            self._lanes = (*self._lanes, lane)
            return lane

    def _forget_closed(self) -> None:
        with self._lock:
            closed = [lane for lane in self._lanes if lane.loop.is_closed()]
            self._lanes = tuple(lane for lane in self._lanes if lane not in closed)
            self._missed = {target: count for target, count in self._missed.items() if not target.loop.is_closed()}
            self._ended = {target: until for target, until in self._ended.items() if not target.loop.is_closed()}
        for lane in closed:
            lane.give_up()

    # What was not sent.

    def missed(self, target: Target) -> None:
        with self._lock:
            if target in self._missed or len(self._missed) < MAX_TOLD:
                self._missed[target] = self._missed.get(target, 0) + 1

    def tell_missed(self) -> None:
        """Each run is told how many records it lacks, behind those that came meanwhile."""
        with self._lock:
            missed, self._missed = self._missed, {}
        for target, count in missed.items():
            line = Line("warning", [f"{count} log records were dropped: there were too many to send"], "tailrace", {})
            self.put(target, line)
        if missed:
            log.warning("log_records_dropped", records=sum(missed.values()), runs=len(missed))

    def refused(self, target: Target, outcome: Outcome) -> None:
        if outcome.word == "closed" and not isinstance(target, Live):
            with self._lock:
                while len(self._ended) >= MAX_ENDED:
                    self._ended.pop(next(iter(self._ended)))
                self._ended[target] = time.monotonic() + ENDED_SECONDS
        self.tell_once(target.run, outcome.word, outcome.detail)

    def has_ended(self, target: Target) -> bool:
        return self._ended.get(target, 0.0) > time.monotonic()

    def tell_once(self, run: str, why: str, detail: str) -> None:
        if (run, why) not in self._told:
            if len(self._told) >= MAX_ENDED:
                self._told.clear()
            self._told.add((run, why))
            log.warning("log_records_refused", run=run, why=why, detail=detail)

    # The end.

    def flush(self, seconds: float) -> None:
        """Waits until what came before was taken, so long at most; never for a loop that the caller itself holds."""
        deadline = time.monotonic() + seconds
        for lane in self._lanes:
            if _runs_here(lane.loop) or not lane.loop.is_running() or not (lane.held or self._missed):
                continue
            is_idle = threading.Event()
            lane.idle.append(is_idle)
            lane.call()
            is_idle.wait(max(0.0, deadline - time.monotonic()))


_the_outlet = Outlet()


def outlet() -> Outlet:
    """The process's own; a forked child has another one, and what waits in the parent is the parent's to send."""
    return _the_outlet


def _in_child() -> None:
    global _the_outlet
    _the_outlet = Outlet()


os.register_at_fork(after_in_child=_in_child)
