"""What goes on beside a worker's main step: renewals, cancels, time limits, passes, relays, and telling that it lives."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.renewal import Call, Renewal
from processor.core.errors import ServerError
from processor.store.connection import execute, speaking_of
from processor.store.executing import Taken
from processor.store.scripts import Held, renew_command
from processor.store.space import ms_of
from processor.store.workers import ANNOUNCE_SECONDS, announce, tell_stopped, worker_here
from processor.worker.duties import duties
from processor.worker.gate import Gate
from processor.worker.passes import Passes
from processor.worker.scheduler import keep_registered
from processor.worker.singletons import Singletons

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["Keeping"]

log = structlog.get_logger("tailrace.worker")
SWEEP_SECONDS: Final = 0.25  # how late a time limit may be; instead of a timer for each execution
PARK_SECONDS: Final = 60.0  # an answer that takes longer is waited for by the server
OPEN_SECONDS: Final = 5.0
STOP_SECONDS: Final = 2.0
RENEWED_AT_ONCE: Final = 1000
RELAY_SECONDS: Final = 5.0  # for what is on its way to other partitions when the process goes


class _Control:
    """Hears cancels of one partition."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping

    def message(self, body: bytes, /) -> None:
        verb, _, run = body.decode().partition(" ")
        if verb == "cancel":
            self._keeping.cancelled(run)

    def resubscribed(self) -> None:
        self._keeping.renew_soon()


class Keeping:
    """Of one worker, whose session is open."""

    def __init__(
        self,
        worker: Worker,
        free: Callable[[str], int],
        take: Callable[[Sequence[Taken]], None],
        gate: Gate,
    ) -> None:
        self._worker, self._session = worker, worker.session
        self._loop = asyncio.get_running_loop()
        steps = {"relay": self._session.relaying.look, "limits": gate.renew, "groups": worker.reacting.look}
        self.passes = Passes(self._session, worker.consumer, list(worker.tasks), take, free=free, also=steps)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._controls: dict[str, _Control] = {}
        script = self._session.scripts.named("renew")
        seconds = self._session.settings.visibility_seconds
        self._renewal = Renewal(self._session.server.address.url, script, seconds, self._renewals)
        self._state = worker_here(worker.consumer, worker.tasks, groups=worker.groups, places=worker.concurrency)

    async def start(self, *, alone: bool) -> None:
        """Returns when cancels are heard. alone: time does nothing by itself (a sandbox's is virtual). Raises ServerError."""
        with speaking_of(self._session.server.address.url):
            async with asyncio.timeout(OPEN_SECONDS):  # a subscription by itself waits until the server is back
                await self._hear_cancels()
                self._state = await announce(self._session, self._state)
        self._renewal.start()
        beside: dict[str, Coroutine[Any, Any, None]] = {"sweep": self._sweep()}
        if not alone:
            beside |= {
                "passes": self.passes.run(self._stop),
                "announce": self._announce(),
                "schedules": keep_registered(self._session, self._worker.tasks.values(), self._stop),
                "singletons": Singletons(self._session, duties(self._worker.tail, self._session)).run(self._stop),
            }
        self._tasks = [self._loop.create_task(work, name=f"tailrace-{name}") for name, work in beside.items()]

    async def _hear_cancels(self) -> None:
        for keys in self._session.keys.partitions:
            control = self._controls[keys.ctl] = _Control(self)
            await self._session.server.channels.subscribe(keys.ctl, control)

    async def close(self) -> None:
        self._stop.set()
        await asyncio.wait(self._tasks, timeout=STOP_SECONDS)  # what is under way, above all a pass
        await self._session.relaying.close(seconds=RELAY_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._renewal.stop()
        await asyncio.to_thread(self._renewal.join, STOP_SECONDS)
        for ctl, control in self._controls.items():
            self._session.server.channels.unsubscribe(ctl, control)
        if self._state.stopped is None:
            await self._tell_stopped()

    # Renewals, in their own thread.

    def _renewals(self) -> Iterator[Call]:
        session, consumer = self._session, self._worker.consumer
        script = session.scripts.named("renew")
        for number, tasks in self._worker.registry.by_partition().items():
            for part in _parts(tasks):
                command = renew_command(script, session.limits, session.keys.partitions[number], (), consumer, part)
                held = [one for entries in part.values() for one in entries]
                yield Call(command, functools.partial(self._renewed, held))
        yield from self._worker.reacting.renewals()

    def _renewed(self, held: Sequence[Held], answers: Sequence[str]) -> None:
        """A loop that is blocked hears it when it is free again."""
        news = [(one, answer) for one, answer in zip(held, answers, strict=True) if answer != "renewed"]
        if news and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._hear, news)
            except RuntimeError:
                return  # it was closed in between

    def _hear(self, news: Sequence[tuple[Held, str]]) -> None:
        for one, answer in news:
            execution = self._worker.registry.of_run(one.run)
            if execution is not None and execution.exec == one.exec:  # else it began while the answer was under way
                execution.heard(answer)

    def renew_soon(self) -> None:
        """A cancel may have been missed; a renewal's answer tells."""
        self._renewal.soon()

    def cancelled(self, run: str) -> None:
        execution = self._worker.registry.of_run(run)
        if execution is not None:
            execution.cancel()

    # Time limits.

    async def _sweep(self) -> None:
        while not self._stop.is_set():
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep()

    def sweep(self) -> None:
        self._worker.reacting.sweep()
        now = self._loop.time()
        for execution in self._worker.registry:
            waits = execution.waits_since
            if waits is not None and now - waits >= PARK_SECONDS:
                execution.park()
            elif waits is None and now >= execution.deadline:
                execution.time_out()

    # Others.

    async def _announce(self) -> None:
        """Until it takes nothing more, which is told at once: it may drain for a while yet."""
        stopping = self._worker.stopping
        while not stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), ANNOUNCE_SECONDS)
                break
            try:
                with speaking_of(self._session.server.address.url):
                    running = replace(self._state, running=self._worker.places.taken)
                    self._state = await announce(self._session, running)
            except ServerError as error:
                log.debug("announce_failed", error=error.code)  # reads and settlements tell of it loudly enough
        await self._tell_stopped()

    async def _tell_stopped(self) -> None:
        try:
            with speaking_of(self._session.server.address.url):
                async with asyncio.timeout(STOP_SECONDS):
                    self._state = await tell_stopped(self._session, self._state)
        except ServerError as error:
            log.info("stop_untold", error=error.code)

    async def due_within(self, ms: int) -> bool:
        """Whether something delayed is due so soon."""
        redis = self._session.redis
        with speaking_of(self._session.server.address.url):
            now = ms_of(await execute(redis, "TIME"))
            counts = [
                await execute(redis, "ZCOUNT", keys.delayed, "-inf", now + ms) for keys in self._session.keys.partitions
            ]
        return any(counts)


def _parts(tasks: Mapping[str, Sequence[Held]]) -> Iterator[Mapping[str, Sequence[Held]]]:
    """What one call renews: all, or of very many as many as neither hold the server nor pass a script's stack."""
    if sum(map(len, tasks.values())) <= RENEWED_AT_ONCE:
        yield tasks
        return
    for task, held in tasks.items():
        for at in range(0, len(held), RENEWED_AT_ONCE):
            yield {task: held[at : at + RENEWED_AT_ONCE]}
