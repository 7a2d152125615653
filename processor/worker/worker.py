"""Worker: executes runs of a Tailrace's tasks. Its main step: read, admit, ask the limits, start; executions settle themselves."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from os import getpid
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.joining import flow_task
from processor.client.session import Session
from processor.core.chain import Chain
from processor.core.errors import ServerError
from processor.core.lifecycle import TERMINAL
from processor.core.plan import FLOW
from processor.store.claims import own
from processor.store.connection import speaking_of
from processor.store.executing import Settled, Taken, Unit
from processor.store.lag import read_lags
from processor.store.line import Line
from processor.store.runs import read_tail
from processor.worker.draining import drain
from processor.worker.execution import Execution
from processor.worker.gate import Gate
from processor.worker.keeping import Keeping
from processor.worker.lobby import Lobby
from processor.worker.places import Places
from processor.worker.reacting import Reacting
from processor.worker.reading import RARE_SECONDS, Reading
from processor.worker.registry import Registry
from processor.worker.starting import Starting

if TYPE_CHECKING:
    from processor.client.reaction import Group
    from processor.client.tailrace import Tailrace
    from processor.client.task import Task

__all__ = ["Worker", "tasks_of"]

log = structlog.get_logger("tailrace.worker")
DEFAULT_CONCURRENCY: Final = 100
OWN_ENTRIES: Final = 1000  # of this consumer's pending ones, looked for at once after a lost connection
DUE_SOON_MS: Final = 1000  # what `burst` still waits for
READ_RETRY_SECONDS: Final = 0.2
LAST_STEP_SECONDS: Final = 7.0  # to end the step that is under way: a read that has no answer lasts for six
LATE_SECONDS: Final = 2.0  # to give back what a pass took over while the worker drained


def tasks_of(tail: Tailrace, only: Sequence[str] | None = None) -> dict[str, Task[..., Any]]:
    """What a worker takes: these tasks or all of them, and flows."""
    chosen = {name: task for name, task in tail.tasks.items() if only is None or name in only}
    return {**chosen, FLOW: flow_task(tail)}


class Worker:
    """One process's worker, in one event loop."""

    tail: Tailrace
    session: Session
    places: Places
    reacting: Reacting

    def __init__(
        self,
        tail: Tailrace,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        tasks: Sequence[str] | None = None,
        groups: Sequence[str] | None = None,
        consumer: str | None = None,
    ) -> None:
        """concurrency: executions at once, of all tasks. tasks: only these, and flows. groups: only their reactions. Who names
        the ones alone means none of the others. consumer: its name; a test may set it."""
        if tasks is None and groups is not None:
            tasks = ()
        elif groups is None and tasks is not None:
            groups = ()
        self.tail = tail
        self.concurrency = concurrency
        self.tasks = tasks_of(tail, tasks)
        self.groups: dict[str, Group] = {
            name: group for name, group in tail.reactions.items() if groups is None or name in groups
        }
        self.consumer: str = consumer or f"{socket.gethostname()}-{getpid()}-{secrets.token_hex(3)}"
        self.registry = Registry()
        self.stopping = asyncio.Event()
        self._main: asyncio.Timeout | None = None  # around all main steps
        self._changed = asyncio.Event()  # a place became free, an execution ended, entries were taken over
        self._inbox: list[Execution] = []  # taken over by a pass, and renewed from then on
        self._suspects: deque[Execution] = deque()

    @property
    def running(self) -> int:
        """Executions whose function has begun and not ended."""
        return sum(1 for execution in self.registry if execution.runs)

    def stop(self) -> None:
        """Takes nothing more, and drains. From the loop's own thread."""
        self.stopping.set()
        self._changed.set()
        if self._main is not None and self._main.when() is None:
            self._main.reschedule(asyncio.get_running_loop().time() + LAST_STEP_SECONDS)

    async def run(self, *, burst: bool = False) -> None:
        """Until stop(), then drains. burst: until nothing is left to do for its tasks. Raises ServerError, NotConfigured at
        the start only."""
        await self.open()
        try:
            async with asyncio.timeout(None) as self._main:
                while not self.stopping.is_set():
                    idle = await self.step()
                    if burst and idle and await self._is_done():
                        break
        except TimeoutError:
            if self._main is None or not self._main.expired():
                raise
            log.warning("last_step_cut_short")  # its server does not answer
        finally:
            self._main = None
            await self.close()

    # Opening.

    async def open(self, *, alone: bool = False) -> None:
        """Connects, and begins what goes on beside the main step. Raises ServerError, NotConfigured.

        alone: nothing goes on that time would cause; the caller moves it (a sandbox).
        """
        self.session = session = await self.tail.session()
        address = session.server.address
        self._reads, self._calls = Line(address, "tailrace-read"), Line(address, "tailrace-work")
        of_task = {name: task.concurrency for name, task in self.tasks.items()}
        self.places = Places(self.concurrency, of_task, self._changed.set)
        self._reading = Reading(self._reads, session.keys, list(self.tasks), self.consumer, self.places, rare=[FLOW])
        self._own_seen = 0  # connections of the reader after which own pending entries were looked for; -1: look now
        self._gate = Gate(session, self.tasks)
        self._starting = Starting(
            self._calls, session, self.consumer, self.registry, self.tasks, self.look_again, self.stopping
        )
        near = 0 if alone else self.concurrency // 2
        self._lobby = Lobby(self._gate, self._starting.begin, places=near, apart=not alone)
        self.reacting = Reacting(self, self._changed.set)
        self._keeping = Keeping(self, self._free, self._take_over, self._gate)
        self._settling = session.settling(self._calls)
        await self.reacting.open()
        await self._keeping.start(alone=alone)
        if not alone:
            self.reacting.start()

    async def close(self) -> None:
        """Drains, and ends what goes on beside the main step."""
        self.stopping.set()
        await self._lobby.close()
        seconds = self.session.settings.drain_seconds
        is_settled, _ = await asyncio.gather(
            drain(self, self._starting, self._settling, seconds), self.reacting.drain(seconds)
        )
        await self._keeping.close()
        await self.reacting.close()
        await self._settling.close(seconds=LATE_SECONDS if is_settled else 0)
        await self._gate.close()
        self._reads.close()
        self._calls.close()

    # The main step.

    async def step(self, *, block: bool = True) -> bool:
        """Reads, admits, asks the limits, starts. Whether there was nothing to start, in any stream."""
        if self._suspects:
            await self._run_alone(self._suspects.popleft())
            return False
        taken_over, self._inbox = self._inbox, []
        entries = [] if taken_over else await self._read(block=block)
        executions = [*taken_over, *self._admit(entries)]
        executions = await self._ask_limits(executions)
        await self._starting.begin(executions)
        return not executions and not self._suspects and self._reading.all_empty

    async def _read(self, *, block: bool) -> list[Taken]:
        """Own pending ones after a lost connection, else new ones."""
        try:
            with speaking_of(self.session.server.address.url):
                if self._reads.connections != self._own_seen and (entries := await self._own_entries()):
                    return entries
                if not self.places.any_free:
                    await self._change()
                elif block and self._reading.is_only_rare:
                    await self._change(RARE_SECONDS)
                return await self._reading.read(block=block)
        except ServerError as error:
            log.warning("read_failed", error=error.code, message=error.message)
            await asyncio.sleep(READ_RETRY_SECONDS)
            return []

    async def _own_entries(self) -> list[Taken]:
        """What the server gave to this consumer and this process has not got: an answer was lost with its connection."""
        self._own_seen = self._reads.connections  # before it is looked: whoever asks meanwhile is not forgotten
        found: list[Taken] = []
        try:
            for number, keys in enumerate(self.session.keys.partitions):
                for task in self.tasks:
                    known = self._known(number, task)
                    entries = await own(self.session, keys, task, self.consumer, known=known, count=OWN_ENTRIES)
                    found += entries
                    if len(entries) == OWN_ENTRIES:
                        self.look_again()  # there may be more
        except BaseException:
            self.look_again()
            raise
        return found

    def _known(self, partition: int, task: str) -> Callable[[str], bool]:
        return lambda entry: self.registry.holds(partition, task, entry)

    def _admit(self, entries: Iterable[Taken]) -> list[Execution]:
        """Each entry once in this process. Suspects wait for their turn."""
        admitted = []
        for taken in entries:
            execution = Execution(self, taken, self.tasks[taken.task], self.session.keys.number(taken.run))
            if not self.registry.add(execution):
                continue
            self.places.take(taken.task)
            if execution.is_suspect:
                self._suspects.append(execution)
            else:
                admitted.append(execution)
        return admitted

    async def _ask_limits(self, executions: list[Execution]) -> list[Execution]:
        """Those that may begin now; the others come back when there may be room."""
        if not self._gate.guards_any:
            return executions
        waits = await self._gate.ask([(one.taken, one.task) for one in executions])
        for execution, wait_ms in zip(executions, waits, strict=True):
            if wait_ms:
                self._lobby.wait(execution, wait_ms)
        return [execution for execution, wait_ms in zip(executions, waits, strict=True) if not wait_ms]

    async def _run_alone(self, execution: Execution) -> None:
        """It may have ended the processes that ran it before. It begins when nothing else runs, and nothing else begins while
        it runs; either waits for one visibility timeout at most, so that a long execution does not stop this process."""
        patience = self.session.settings.visibility_seconds
        log.warning("suspect_runs_alone", run=execution.taken.run, tries=execution.taken.tries)
        self._lobby.give_back()
        await self._until(self._nothing_runs, patience)
        if self.stopping.is_set():
            execution.give_back()
            return
        await self._starting.begin(await self._ask_limits([execution]))
        await self._starting.answered()
        await self._until(lambda: not execution.computes, patience)

    def _nothing_runs(self) -> bool:
        """What only waits, perhaps for the suspect, leaves this process: it does not die with it, and loses no try."""
        for execution in self.registry:
            execution.step_aside()
        return self.running == 0

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition() and not self.stopping.is_set() and loop.time() < deadline:
            await self._change(deadline - loop.time())

    async def _change(self, seconds: float = 1.0) -> None:
        """Waits until something changed, so long at most."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _is_done(self) -> bool:
        """Nothing held, nothing due soon."""
        if len(self.registry) or not self.reacting.is_idle:
            await self._change(0.05)
            return False
        try:
            if await self._keeping.due_within(DUE_SOON_MS):
                return False
            streams = [keys.work(task) for keys in self.session.keys.partitions for task in self.tasks]
            with speaking_of(self.session.server.address.url):
                _, waiting = await read_lags(self.session, streams)  # what became due since the last read
            return not any(waiting.values())
        except ServerError as error:
            log.warning("burst_waits", error=error.code, message=error.message)
            await asyncio.sleep(READ_RETRY_SECONDS)
            return False

    # Driven from outside, by a sandbox.

    async def work_until_idle(self) -> None:
        """Everything that can be done now is done; what waits for an answer, or for time to pass, stays."""
        moves = -1
        while True:
            await self._keeping.passes.promote_all()
            idle = await self.step(block=False)
            await self._starting.done()
            idle = await self.reacting.step() and idle
            if self.session.relaying.is_busy or self.reacting.held or await self._is_busy():
                await self._change(0.02)
            elif idle:
                if moves == self.places.moves:
                    return
                moves = self.places.moves  # what moved may have queued something for a stream that was read before

    async def _is_busy(self) -> bool:
        """Whether an execution goes on, or is about to: what it waits for is there."""
        for execution in self.registry:
            if execution.waits_since is None or (
                execution.ask and await self._status(execution.taken.run) != "waiting"
            ):
                return True
            for child in execution.run._awaited:
                if await self._status(child) in TERMINAL:
                    return True
        return False

    async def _status(self, run: str) -> str:
        with speaking_of(self.session.server.address.url):
            found = await read_tail(self.session, run)
        return found[0] if found is not None else ""

    async def look_once(self) -> None:
        """One pass over everything: what is idle is taken over, what is lost or silent ends."""
        await self._keeping.passes.look_once()

    async def crash(self) -> None:
        """As if this process had been killed: its functions are not heard of any more, and nothing is settled."""
        self.stopping.set()
        executions = list(self.registry)
        for execution in executions:
            execution.abandon()
        await asyncio.gather(*(execution.ended() for execution in executions))
        await self.reacting.crash()
        await self._keeping.close()
        await self._settling.close()
        self._reads.close()
        self._calls.close()

    # Taking over.

    def _free(self, task: str) -> int:
        return 0 if self.stopping.is_set() else self.places.free(task)

    def _take_over(self, entries: Sequence[Taken]) -> None:
        self._inbox += self._admit(entries)
        if self.stopping.is_set():  # they were claimed while it began to drain
            self.give_back_inbox()
        self._changed.set()

    def give_back_inbox(self) -> None:
        """At drain: what was taken over goes to other workers."""
        for execution in self._inbox:
            execution.give_back()
        self._inbox.clear()

    def give_back_unbegun(self) -> None:
        """At drain, when no start is under way: what waits for its turn goes to other workers."""
        self._suspects.clear()
        for execution in self.registry:
            if execution.is_unbegun:
                execution.give_back()

    # What executions ask of their crew.

    def settle(self, partition: int, unit: Unit, tell: Callable[[Settled], None], chain: Chain | None = None) -> None:
        self._settling.put(partition, unit, tell, chain)

    def over(self, execution: Execution) -> None:
        self._gate.left(execution.taken.run)
        self.places.leave(execution.taken.task)

    def forget(self, execution: Execution) -> None:
        self.registry.remove(execution)
        self.places.moves += 1
        self._changed.set()

    def look_again(self) -> None:
        """Before the next read it is asked what is pending for this consumer, with the exec that it has now."""
        self._own_seen = -1
