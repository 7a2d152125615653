"""Executing a run without a worker: in this process, under an owner that is renewed, with its retries.

One execution is a list of tries. Each begins with run.started (which gives the attempt and the exec that everything of the
try is written under) and ends with run.finished, run.failed, run.cancelled or run.retrying, all of them live.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.effects import Effects
from processor.client.owners import Owned
from processor.client.references import finished_data
from processor.core.backoff import GiveUp, Retry, RetryLater
from processor.core.chain import Outcome
from processor.core.errors import (
    IllegalEvent,
    RunCancelled,
    RunClosed,
    RunExists,
    ServerError,
    StaleAttempt,
    TailraceError,
)
from processor.core.events import Draft, compose, draft
from processor.core.failure import failure, short, text_of, words_of
from processor.core.json import dumps
from processor.core.start import start_hash
from processor.store.executing import Unit
from processor.store.writer import Sent, Writer, refusal

if TYPE_CHECKING:
    from processor.client.run import Run
    from processor.client.session import Session

__all__ = ["Execution", "Job"]

log = structlog.get_logger("tailrace.run")
STOP_SECONDS: Final = 1.0  # what a function may take to clean up, and its end to go out, when the process ends
_PROCESS_ENDED: Final = {"error": "its process ended", "reason": "shutdown"}


@dataclass(frozen=True, slots=True)
class Job:
    """What is executed: a task with its input."""

    task: str
    function: Callable[..., Awaitable[Any]]
    arguments: Mapping[str, object]
    input: bytes  # JSON
    start: str
    retry: Retry
    timeout_seconds: float


class Execution:
    """One run, executed here."""

    def __init__(
        self,
        session: Session,
        run: Run[Any],
        *,
        job: Job | None = None,
        thread: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._session, self._run, self._job = session, run, job
        self._thread, self._labels = thread, labels or {}
        self._owner = f"{session.producer.id}.{secrets.token_hex(4)}"
        self._owned = Owned(run.id, self._owner, self._on_cancel, self._on_ended)
        self._cancel_asked = False
        self._ended_elsewhere: str | None = None
        self._told = asyncio.Event()  # a cancel was asked for, or the run ended elsewhere
        self._failed_tries = 0
        self._stopped: list[asyncio.Task[Any]] = []  # each time that something was cancelled from here
        self._inner: asyncio.Task[Any] | None = None  # what a cancel stops
        self._writer: Writer | None = None

    # Beginning.

    async def begin(self) -> None:
        """Appends run.started of the first try. Raises RunExists, ThreadBusy, ServerError."""
        await self._begin_try()
        try:
            await self._session.owners.add(self._owned)
        except BaseException:  # it has begun, and nobody is going to execute it
            self._session.owners.remove(self._owned)
            if self._writer is not None:
                self._writer.put_anyway(self._ending("run.failed", _PROCESS_ENDED))
            self._leave_writer()
            raise

    async def _begin_try(self) -> None:
        nonce = secrets.token_hex(6)
        started = self._session.producer.writer(self._run.id)
        if self._writer is None:
            event = self._started(nonce)
            self._run._writer_of(event)  # the input may be too large, as for start
            sent = await started.put_or_withdraw(event)
        else:  # nobody waits for it who could be told that the server is away
            sent = await self._send(self._started(nonce), started)
        assert sent.outcome is not None
        attempt = sent.outcome.attempt
        self._leave_writer()
        self._writer = self._session.producer.live(self._run.id, f"{attempt}-{nonce}", started)
        self._writer.chain.on_cancelling = self._on_cancel
        self._run._write_for(self._writer, attempt)

    def _started(self, nonce: str) -> Draft:
        job = self._job
        data = b'{"task":%b,"input":%b}' % (dumps(job.task), job.input) if job else b"{}"
        return draft(
            "run.started",
            data,
            nonce=nonce,
            owner=self._owner,
            start=job.start if job else start_hash("", {}),
            task=job.task if job else "",
            thread=self._thread,
            labels=self._labels,
        )

    # A task: tries until it ends.

    def launch(self) -> None:
        """Executes the job independently of the caller."""
        self._owned.task = asyncio.get_running_loop().create_task(self._execute(), name=f"tailrace-run-{self._run.id}")

    async def _execute(self) -> None:
        assert self._job is not None
        try:
            while not await self._one_try(self._job):
                pass
        except asyncio.CancelledError:  # between two tries, or while its end was under way
            await self._end_with_process()
            raise
        except (RunClosed, StaleAttempt) as error:
            log.info("run_ended_elsewhere", run=self._run.id, why=error.code)
        except TailraceError as error:
            log.error("run_abandoned", run=self._run.id, error=error.message)
        finally:
            self._session.owners.remove(self._owned)
            self._leave_writer()

    async def _one_try(self, job: Job) -> bool:
        """Whether the run has ended."""
        stopping = False
        self._effects = Effects(self._run.id, self._run._put, self._session.producer.max_event_bytes)
        inner = self._inner = asyncio.get_running_loop().create_task(self._call(job))
        if self._cancel_asked:
            inner.cancel()
        try:
            await asyncio.wait([inner])
        except asyncio.CancelledError:
            stopping = True
            inner.cancel()
            await asyncio.wait([inner], timeout=STOP_SECONDS)
        if self._ended_elsewhere is not None:
            return True
        if not inner.done() or (stopping and inner.cancelled()):
            await self._end_with_process()
            return True
        if self._cancel_asked and (inner.cancelled() or inner.exception() is not None):
            await self._end_cancelled()
            return True
        return await self._judge(job, inner)

    async def _call(self, job: Job) -> Any:
        self._effects.begin()
        async with asyncio.timeout(job.timeout_seconds) as limit:
            try:
                result = await job.function(self._run, **job.arguments)
                self._run._end_message()
                await self._run._flush(patiently=True)  # the work is done: a server in trouble is no fault of it
            except asyncio.CancelledError:
                if not limit.expired():
                    raise
                raise TimeoutError(f"it took longer than {job.timeout_seconds:g} s") from None
        return finished_data(result)

    async def _judge(self, job: Job, inner: asyncio.Task[Any]) -> bool:
        if inner.cancelled():
            await self._fail("the task cancelled itself", "error")
            return True
        error = inner.exception()
        if error is None:
            error = await self._finish(inner.result())
            if error is None:
                return True
        if isinstance(error, (RunClosed, StaleAttempt)) and error.run == self._run.id:
            raise error
        if isinstance(error, GiveUp):
            await self._fail(text_of(error) or "given up", "given_up")
            return True
        if isinstance(error, RetryLater):
            await self._retry("later", None, error.seconds)
            return False
        self._failed_tries += 1
        if isinstance(error, job.retry.never) or self._failed_tries >= job.retry.attempts:
            reason = "timeout" if isinstance(error, TimeoutError) else "error"
            await self._fail(words_of(error), reason, error)
            return True
        await self._retry("error", words_of(error), job.retry.delay_seconds(self._failed_tries, random.random()))
        return False

    async def _finish(self, data: bytes) -> IllegalEvent | None:
        """The end, and with it what goes to other runs. What was refused of that, if something was: then nothing has happened."""
        if not self._effects:
            await self._send(draft("run.finished", data, attempt=self._run.attempt))
            return None
        assert self._writer is not None
        unit = Unit(
            run=self._run.id,
            task=self._job.task if self._job else "",
            entry="",
            exec=self._writer.chain.writer.removeprefix("x:"),
            verb="finish",
            payload=compose("run.finished", data, attempt=self._run.attempt),
            outputs=self._effects.outputs,
        )
        answer = await self._session.settle(unit, self._writer.chain)
        if answer.word == "refused":
            return IllegalEvent(f"what the task did to another run was refused: {answer.detail}.", run=self._run.id)
        if answer.word not in ("settled", "done"):
            raise refusal(self._run.id, "run.finished", Outcome(answer.word, detail=answer.detail))
        return None

    async def _retry(self, reason: str, error: str | None, delay_seconds: float) -> None:
        due = (datetime.now(UTC) + timedelta(seconds=delay_seconds)).isoformat(timespec="milliseconds")
        data: dict[str, object] = {"reason": reason, "due": due.replace("+00:00", "Z")}
        if error is not None:
            data["error"] = error
        await self._send(draft("run.retrying", dumps(data), attempt=self._run.attempt + 1))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay_seconds):
                await self._told.wait()  # a cancel ends a run that waits for its next try: no need to wait on
        await self._begin_try()

    # A block: `async with tail.run()`.

    async def enter(self) -> None:
        self._inner = asyncio.current_task()
        await self.begin()

    async def leave(self, error: BaseException | None) -> None:
        """The end of the block is the end of the run. Raises RunCancelled in place of the cancellation that a cancel caused,
        and RunClosed or StaleAttempt in place of one because the run ended elsewhere."""
        try:
            if self._ended_elsewhere is not None:
                self._tell_elsewhere(self._ended_elsewhere, error)
            elif error is None:
                await self._finish_block()
            else:
                await self._end_after(error)
        except RunClosed as closed:
            if closed.status != "cancelled":
                raise
            self._uncancel()  # a cancel ends a run that waits at once
            raise RunCancelled(f"run {self._run.id} was cancelled.", run=self._run.id) from error
        finally:
            self._inner = None  # the task is somebody else's again, whatever is still told of this run
            self._session.owners.remove(self._owned)
            self._leave_writer()

    async def _finish_block(self) -> None:
        self._inner = None  # nothing is left to be stopped: what is told from now on of the run's end means this one
        try:
            self._run._end_message()
            await self._run._flush(patiently=True)  # the work is done: a server in trouble is no fault of it
        except BaseException as late:
            await self._end_after(late)
            raise
        await self._send(draft("run.finished", b'{"result":null}', attempt=self._run.attempt))

    async def _end_after(self, error: BaseException) -> None:
        if self._cancel_asked and isinstance(error, asyncio.CancelledError):
            self._uncancel()
            await self._end_cancelled()
            raise RunCancelled(f"run {self._run.id} was cancelled.", run=self._run.id) from error
        if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
            await self._end("run.failed", _PROCESS_ENDED, hurry=True)
        elif not (isinstance(error, (RunClosed, StaleAttempt)) and error.run == self._run.id):
            await self._fail(words_of(error), "error", error)

    def _tell_elsewhere(self, how: str, error: BaseException | None) -> None:
        """Raises what became of the run, unless the block is left by an exception of its own."""
        self._uncancel()
        if error is None or isinstance(error, asyncio.CancelledError):
            word, _, status = how.partition(" ")
            raise refusal(self._run.id, "run.finished", Outcome(word, detail=status)) from error

    def _uncancel(self) -> None:
        for task in self._stopped:
            task.uncancel()
        self._stopped.clear()

    # Ends.

    async def _end_cancelled(self) -> None:
        try:
            reason = (await self._run.state()).cancel or ""
        except ServerError:  # the end is not optional, its reason is
            reason = ""
        await self._end("run.cancelled", {"reason": reason})

    async def _end_with_process(self) -> None:
        try:
            await self._end("run.failed", _PROCESS_ENDED, hurry=True)
        except (RunClosed, StaleAttempt) as error:  # its own end was under way, or another's
            log.info("run_ended_elsewhere", run=self._run.id, why=error.code)

    async def _fail(self, words: str, reason: str, error: BaseException | None = None) -> None:
        await self._end("run.failed", failure(words, reason, error))

    async def _end(self, type: str, data: Mapping[str, object], *, hurry: bool = False) -> None:
        event = self._ending(type, data)
        if not hurry:
            await self._send(event)
            return
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._send(event)
        except (TimeoutError, ServerError):
            log.warning("end_not_told", run=self._run.id, type=type)  # `expire` tells it as owner_lost

    def _ending(self, type: str, data: Mapping[str, object]) -> Draft:
        error = dumps(data.get("error", "")) if type == "run.failed" else b'""'
        return draft(type, dumps(data), attempt=self._run.attempt, error=_short_json(error, data))

    async def _send(self, event: Draft, writer: Writer | None = None) -> Sent:
        """Sends it, however long the server is away: what a run's lifecycle goes on with is not optional. Raises RunError."""
        writer = writer or self._writer
        assert writer is not None
        try:
            writer.check()
        except TailraceError as error:
            log.warning("write_failed", run=self._run.id, error=error.message)
        sent: Sent = writer.put(event)
        await sent.settled()
        assert sent.outcome is not None
        if not sent.outcome.accepted:
            raise refusal(self._run.id, event.type, sent.outcome)
        return sent

    def _leave_writer(self) -> None:
        if self._writer is not None:
            self._session.producer.end_live(self._writer)

    # What others tell.

    def _on_cancel(self) -> None:
        if not self._cancel_asked:
            self._cancel_asked = True
            self._told.set()
            self._stop()

    def _on_ended(self, how: str) -> None:
        if self._ended_elsewhere is None:
            self._ended_elsewhere = how
            self._told.set()
            log.info("run_ended_elsewhere", run=self._run.id, why=how)
            self._stop()

    def _stop(self) -> None:
        if self._inner is not None and not self._inner.done():
            self._stopped.append(self._inner)
            self._inner.cancel()


async def same_start(run: Run[Any], start: str) -> bool:
    """After run.started was illegal: whether the run was started with the same task and input. Raises RunExists if not."""
    state = await run.state()
    if state.start == start:
        return True
    raise RunExists(f"run {run.id} was started with another task or input.", remedy="Choose another id.", run=run.id)


def _short_json(error: bytes, data: Mapping[str, object]) -> bytes:
    """The hash keeps the first words of an error; the event has it all."""
    return error if len(error) <= 512 else dumps(short(str(data.get("error", ""))))
