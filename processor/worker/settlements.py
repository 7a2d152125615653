"""Settlements of a shared group in one worker: what ended is told to the server, and forgotten when it has answered."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from processor.client.reaction import Reaction
from processor.client.session import Session
from processor.core.errors import BadInput, IllegalEvent, ServerError
from processor.observe import metrics
from processor.store.emitting import Emitting, emitted
from processor.store.executing import Settled
from processor.store.line import Line
from processor.store.reacting import Delivery, ReactUnit, react_command, skip_command
from processor.store.settling import Settling
from processor.worker.bindings import Bindings
from processor.worker.held import Held
from processor.worker.lanes import Call, Ended
from processor.worker.verdicts import Verdict, judge

__all__ = ["Settlements"]

log = structlog.get_logger("tailrace.reactions")
RETRY_SECONDS: Final = 0.2
ELSEWHERE_SECONDS: Final = 5.0  # an event for whom another member has the handler
_End = tuple[Reaction, Call, Ended]  # of a call that succeeded


class Settlements:
    """Belongs to one event loop."""

    def __init__(
        self,
        session: Session,
        line: Line,
        group: str,
        consumer: str,
        bindings: Bindings,
        held: Held,
        *,
        changed: Callable[[], None],
        unsure: Callable[[], None],
    ) -> None:
        """changed: something is settled. unsure: entries that are pending here were let go."""
        self._session, self._group, self._bindings, self._held = session, group, bindings, held
        self._changed, self._unsure = changed, unsure
        self._line = line
        self._react, self._skip_script = session.scripts.named("react"), session.scripts.named("skip")
        self._settling: Settling[ReactUnit] = Settling(
            self._line, self._react, self._command, lambda: session.keys, session.relaying.soon
        )
        self._emitting: Emitting[_End] = Emitting(
            self._line, session, session.limits, group, consumer, self._emitted, self._look
        )
        self._done = metrics.reactions_total.labels(group=group, outcome="done")
        self._skipping: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def unsettled(self) -> int:
        """What has no answer yet."""
        return self._settling.unsettled + self._emitting.unsettled

    def _command(self, partition: int, units: Sequence[ReactUnit]) -> tuple[bytes | str | int, ...]:
        return react_command(self._react, self._session.limits, self._session.keys, partition, self._group, units)

    # Successes.

    def succeeded(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        if len(call.deliveries) == 1:
            one = call.deliveries[0]
            end = (reaction, call, ended)
            found = emitted(one.entry, ended.outputs, one.partition, one.run, self._session.keys, end)
            if found is not None:
                self._emitting.put(one.partition, found)
                return
        self._settle_call(reaction, call, ended)

    def _settle_call(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        """By react.lua."""
        unit = ReactUnit(call.deliveries, "done", ended.outputs)
        self._settling.put(call.deliveries[0].partition, unit, functools.partial(self._settled, reaction, call))

    def _emitted(self, ends: Sequence[_End]) -> None:
        """Their successes were answered, each of one entry."""
        self._done.inc(len(ends))
        self._held.drop([call.deliveries[0] for _, call, _ in ends])
        self._changed()

    def _look(self, ends: Sequence[_End]) -> None:
        for end in ends:
            self._settle_call(*end)

    def _settled(self, reaction: Reaction, call: Call, answer: Settled) -> None:
        if answer.word in (
            "refused",
            "failed",
        ):  # failed: its runs are broken; the event goes on without what it did to them
            words = f"what the reaction did to a run was refused: {answer.detail}."
            self.failed(reaction, call, IllegalEvent(words, run=call.deliveries[0].run))
            return
        if answer.word == "stale":  # some of a batch were taken over: those that were not are still pending here
            self._unsure()
        self._done.inc(len(call.deliveries))
        self._forget(call.deliveries, answer)

    # Everything else.

    def failed(self, reaction: Reaction, call: Call, error: BaseException) -> None:
        """Each of a batch fails for itself."""
        for delivery in call.deliveries:
            verdict = judge(reaction, delivery, error, random.random())
            told = {"group": self._group, "run": delivery.run, "id": delivery.id, "error": verdict.words}
            if verdict.verb == "dead":
                log.warning("reaction_failed", **told)
                self.bury(delivery, verdict)
            else:
                log.info("reaction_retries", **told)
                self._retry(delivery, verdict.delay_seconds, verdict.tries)

    def bury(self, delivery: Delivery, verdict: Verdict) -> None:
        """As a dead letter."""
        self._settle(ReactUnit((delivery,), "dead", failure=verdict.failure))

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """For another worker, now."""
        for delivery in deliveries:
            self._retry(delivery, 0.0, delivery.tries)

    def leave_to_others(self, delivery: Delivery) -> None:
        """Another member has its handler: it comes round until it meets that one."""
        self._retry(delivery, ELSEWHERE_SECONDS, delivery.tries)

    def _retry(self, delivery: Delivery, seconds: float, tries: int) -> None:
        self._settle(ReactUnit((delivery,), "retry", delay_ms=max(0, int(seconds * 1000)), tries=tries))

    def _settle(self, unit: ReactUnit) -> None:
        metrics.reactions_total.labels(group=self._group, outcome=unit.verb).inc()
        tell = functools.partial(self._forget, unit.deliveries)
        self._settling.put(unit.deliveries[0].partition, unit, tell)

    def _forget(self, deliveries: Sequence[Delivery], answer: Settled) -> None:
        if answer.word == "failed":
            log.error("react_failed", group=self._group, run=deliveries[0].run, message=answer.detail)
        self._held.drop(deliveries)
        self._changed()

    # What is for nobody.

    def skip(self, partition: int, entries: Sequence[bytes | str], again: Callable[[], None]) -> None:
        """Acknowledges them. again: called instead where the members bind something else by now."""
        task = self._loop.create_task(self._skip(partition, entries, again), name="tailrace-skip")
        self._skipping.add(task)
        task.add_done_callback(self._skipping.discard)

    async def _skip(self, partition: int, entries: Sequence[bytes | str], again: Callable[[], None]) -> None:
        keys = self._session.keys.partitions[partition]
        command = skip_command(self._skip_script, keys, self._group, self._bindings.version, entries)
        try:
            if await self._line.script(self._skip_script, *command) == b"changed":
                await self._bindings.tell()  # a newer member came: they may be for that one
                again()
        except (ServerError, BadInput) as error:  # they are found among own pending ones
            log.debug("skip_waits", group=self._group, error=error.code, entries=len(entries))
            await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))
            self._unsure()
        self._changed()

    async def close(self) -> None:
        """What has no answer yet is settled by whoever claims it."""
        await self._settling.close()
        await self._emitting.close()
        for task in list(self._skipping):
            task.cancel()
        await asyncio.gather(*self._skipping, return_exceptions=True)
