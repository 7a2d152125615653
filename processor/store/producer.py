"""Producing from outside and live: which writer serves which run, and bodies that came over HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from typing import Final

from processor.core.chain import Chain, Outcome
from processor.core.errors import ServerError, ServerUnreachable
from processor.core.events import Draft
from processor.store.append import Appender
from processor.store.writer import Buffer, Posted, Sent, Writer, refusal

__all__ = ["Producer"]

SILENT_SECONDS: Final = 300.0  # the server forgets a producer after ten minutes at the earliest
MANY_WRITERS: Final = 1024  # from here on those that are no longer used are looked for
UNUSED_SECONDS: Final = 30.0  # one costs some 3 KB, and a run whose end was written needs none
LOOK_SECONDS: Final = 0.1  # whether the server is in trouble, while a body waits
BODY_SECONDS: Final = 5.0  # after which HTTP answers that the outcome is unknown


class Producer:
    """One process's writers. Its ID is random, and so is each of its successors' after a long silence."""

    def __init__(self, appender: Appender, buffer_bytes: int, max_event_bytes: int) -> None:
        self.id = secrets.token_hex(8)
        self.appender = appender
        self.buffer = Buffer(buffer_bytes)
        self.max_event_bytes = max_event_bytes
        self._loop = asyncio.get_running_loop()
        self._writers: dict[str, Writer] = {}
        self._live: dict[tuple[str, str], Writer] = {}
        self._renamed = 0  # grows with each writer that is given up, so no name is used for a run twice
        self._look_at = MANY_WRITERS
        appender.on_trouble.append(self._tell)

    def writer(self, run: str) -> Writer:
        """Of events from outside into this run."""
        known = self._writers.get(run)
        now = self._loop.time()
        if (
            known is not None
            and (known.chain.ended is None or known.untold)
            and (now - known.used_at < SILENT_SECONDS or not known.chain.idle)
        ):
            known.used_at = now
            return known
        if known is not None:
            self._renamed += 1
        if len(self._writers) >= self._look_at:
            self._forget(now)
            self._look_at = max(MANY_WRITERS, 2 * len(self._writers))
        name = f"{self.id}.{self._renamed}" if self._renamed else self.id
        writer = self._writers[run] = self._make(Chain(run, f"p:{name}", self.appender.budget))
        return writer

    def live(self, run: str, exec: str, started: Writer | None = None) -> Writer:
        """Of events under an execution; started: the writer of its run.started, where this process wrote it."""
        after = started.chain if started is not None else None
        chain = Chain(run, f"x:{exec}", self.appender.budget, after=after)
        writer = self._live[run, exec] = self._make(chain)
        return writer

    def end_live(self, writer: Writer) -> None:
        """The execution is over: its writer is not needed once everything is sent and kept long enough."""
        self._live.pop((writer.chain.run, writer.chain.writer[2:]), None)
        writer.chain.finish()

    def _make(self, chain: Chain) -> Writer:
        return Writer(self.appender, chain, self.buffer, self._loop.time, self.max_event_bytes)

    def _forget(self, now: float) -> None:
        """The numbers of those that go are not known any more, and the server knows them: new writers have another name."""
        unused = [
            run
            for run, writer in self._writers.items()
            if writer.chain.idle and not writer.untold and now - writer.used_at >= UNUSED_SECONDS
        ]
        for run in unused:
            del self._writers[run]
        if unused:
            self._renamed += 1

    def _tell(self, trouble: ServerError) -> None:
        for writer in (*self._writers.values(), *self._live.values()):
            if writer.waiting:
                writer.tell(trouble)

    async def append_body(
        self,
        run: str,
        drafts: Sequence[Draft],
        *,
        producer: str | None = None,
        number: int | None = None,
        prev: int | None = None,
    ) -> list[Outcome]:
        """One HTTP body: what became of each event, in order; none behind a refused one is applied.

        producer, number, prev: the client's own chain; without them this process is the producer. Raises ServerError;
        after ServerUnreachable the outcome is unknown.
        """
        if producer is not None and number is not None:
            posted = Posted(run, producer, number - 1 if prev is None else prev, number, drafts)
            self.appender.mark(posted)
            return await self._bounded(posted.outcomes)
        body = object()
        writer = self.writer(run)
        sent = [Sent(writer, draft, body) for draft in drafts]
        try:
            return await self._bounded(self._all(writer, sent))
        except ServerError:
            writer.chain.withdraw(body)
            raise

    async def _all(self, writer: Writer, sent: Sequence[Sent]) -> list[Outcome]:
        await self.buffer.room()
        for one in sent:
            writer.admit_now(one)
        await sent[-1].settled()
        for one in sent:
            await one.settled()
        outcomes = [one.outcome for one in sent if one.outcome is not None]
        if outcomes[-1].word == "unsent":
            raise refusal(writer.chain.run, sent[-1].draft[0], outcomes[-1])
        return outcomes

    async def _bounded(self, outcomes: Awaitable[list[Outcome]]) -> list[Outcome]:
        """Waits five seconds at most, and not at all for a server that refuses writes."""
        waiting = asyncio.ensure_future(outcomes)
        deadline = self._loop.time() + BODY_SECONDS
        try:
            while not waiting.done():
                await asyncio.wait([waiting], timeout=LOOK_SECONDS)
                trouble = self.appender.trouble
                if waiting.done():
                    break
                if trouble is not None and not isinstance(trouble, ServerUnreachable):
                    raise trouble
                if self._loop.time() >= deadline:
                    raise trouble or ServerUnreachable("the server did not answer within 5 s; the outcome is unknown.")
            return waiting.result()
        finally:
            waiting.cancel()
