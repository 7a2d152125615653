"""One work entry in this process: from its reading, through one try of its run, to what it settles."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import structlog

from processor.client.calling import invoke
from processor.client.effects import Effects
from processor.client.references import finished_data, input_of
from processor.client.run import Run
from processor.core.backoff import GiveUp, RetryLater
from processor.core.errors import BadEvent, BadInput, IllegalEvent, RunClosed, StaleAttempt, TailraceError
from processor.core.failure import text_of, words_of
from processor.core.json import loads
from processor.store.executing import Begun, Settled, Taken, Unit
from processor.store.writer import Sent, Writer
from processor.worker.units import Units

if TYPE_CHECKING:
    from collections.abc import Callable

    from processor.client.session import Session
    from processor.client.tailrace import Tailrace
    from processor.client.task import Task
    from processor.core.chain import Chain
    from processor.core.events import Fields
    from processor.worker.places import Places

__all__ = ["Crew", "Execution"]

log = structlog.get_logger("tailrace.worker")

Stopped = Literal["", "cancel", "timeout", "release", "lost", "drop"]
"""Why its function was cancelled. lost: the server knows another execution of the run, or none. drop: nothing is said of it."""
_FIRM: Final = ("lost", "drop")  # also where the function is over, or was stopped for another reason


class Crew(Protocol):
    """What an execution needs of its worker."""

    tail: Tailrace
    session: Session
    places: Places

    def settle(
        self, partition: int, unit: Unit, tell: Callable[[Settled], None], chain: Chain | None = None
    ) -> None: ...
    def over(self, execution: Execution) -> None:
        """Its function has ended, one way or another."""

    def forget(self, execution: Execution) -> None:
        """Nothing is held of it any more."""

    def look_again(self) -> None:
        """Something that is not held any more may still be pending for this process."""


class Execution:
    """Begun once; its function runs in a task of its own, which nobody but this class cancels."""

    __slots__ = (
        "_begun",
        "_crew",
        "_effects",
        "_inner",
        "_is_hurried",
        "_is_over",
        "_parking",
        "_parks",
        "_stopped",
        "_stopped_at",
        "_units",
        "_waits",
        "_writer",
        "ask",
        "deadline",
        "exec",
        "nonce",
        "partition",
        "run",
        "taken",
        "task",
        "waits_since",
    )

    def __init__(self, crew: Crew, taken: Taken, task: Task[..., Any], partition: int) -> None:
        self._crew = crew
        self.taken, self.task, self.partition = taken, task, partition
        self.exec = taken.seen  # as renewals name it
        self.nonce = secrets.token_hex(6)
        self.run: Run[Any] = Run(crew.tail, taken.run)
        self.ask = ""  # the one that it waits for
        self.waits_since: float | None = None  # for an answer or another run, since when
        self.deadline = float("inf")
        self._begun = Begun("")
        self._units = Units(taken)
        self._effects = Effects(taken.run, self._put_live, crew.session.producer.max_event_bytes)
        self._inner: asyncio.Task[None] | None = None
        self._writer: Writer | None = None
        self._stopped: Stopped = ""
        self._stopped_at = 0.0
        self._is_over = False  # its function has ended: what may still take time is to tell so
        self._is_hurried = False
        self._waits = 0  # of its function at once, each for an answer or another run
        self._parks = False  # the server may wait for it
        self._parking: asyncio.Future[None] | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what ended the processes that ran it before: then it runs alone, and takes no neighbour along."""
        tries = self.taken.tries
        return bool(self.taken.seen) and tries >= 1 and tries >= min(2, self.task.retry.attempts - 1)

    @property
    def runs(self) -> bool:
        return self._inner is not None and not self._inner.done()

    @property
    def computes(self) -> bool:
        """Whether its function runs and does not wait for an answer or another run."""
        return self.runs and self.waits_since is None

    # Beginning.

    def begin(self, begun: Begun) -> None:
        """start was answered `go`."""
        self._begun = begun
        self.exec = self._units.exec = f"{begun.attempt}-{self.nonce}"
        self._units.attempt = begun.attempt
        self.run._execute_as(begun.attempt, self._open_live, self)
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + self.task.timeout_seconds
        self._inner = loop.create_task(self._execute())
        if self._stopped:
            self._cancel_inner()

    def _open_live(self) -> Writer:
        self._writer = self._crew.session.producer.live(self.taken.run, self.exec)
        self._writer.chain.on_cancelling = self.cancel
        return self._writer

    def _put_live(self, event: Fields) -> Sent:
        return self.run._put(event)

    # The function, and what its end means.

    async def _execute(self) -> None:
        self._effects.begin()
        try:
            result = await invoke(self.task, self.run, await self._input())
            self._is_over = True
            unit: Unit | None = await self._finish(result)
        except KeyboardInterrupt:  # somebody ends the process, not this run
            self._end(self._units.release())
            raise
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            self._is_over = True
            unit = await self._flushed(self._judged(error))
        self._end(unit)

    def _end(self, unit: Unit | None) -> None:
        self.run._leave_execution()
        self._crew.over(self)
        self._settle(unit)

    def _settle(self, unit: Unit | None) -> None:
        if unit is None or self._stopped == "drop":
            self._forget()
        elif unit.verb == "back":
            self._crew.settle(self.partition, unit, lambda answer: self._forget())
        else:
            self._crew.settle(self.partition, unit, self._settled, self._chain)

    @property
    def _chain(self) -> Chain | None:
        """Of what it wrote into its own run."""
        return self._writer.chain if self._writer is not None else None

    async def _input(self) -> object:
        data = loads(b"{" + self.taken.payload).get("data")
        return await input_of(self._crew.session, self.taken.run, data)

    async def _finish(self, result: object) -> Unit:
        if self._writer is not None:
            self.run._end_message()
            await self.run._flush(patiently=True)  # the work is done: a server in trouble is no fault of it
        unit = self._units.finish(finished_data(result), self._effects.outputs if self._effects else ())
        limit = self._crew.session.producer.max_event_bytes
        if len(unit.payload) > limit:
            raise BadEvent(
                f"the result of task {self.task.name} has {len(unit.payload):,} bytes; at most {limit:,} are allowed.",
                remedy="Store it elsewhere and return where it is, or raise TAILRACE_MAX_EVENT_KIB.",
                field="result",
            )
        return unit

    async def _flushed(self, unit: Unit | None) -> Unit | None:
        """What was written goes out before the end: behind it nothing is taken any more."""
        if self._writer is None or unit is None or unit.verb == "back" or self._is_hurried:
            return unit
        try:
            await self._writer.flush(patiently=True)
        except asyncio.CancelledError:
            log.info("flush_cut_short", run=self.taken.run)
        except StaleAttempt:
            return self._units.give_back()
        except TailraceError as error:
            log.warning("write_failed", run=self.taken.run, error=error.message)
        return unit

    def _judged(self, error: BaseException) -> Unit | None:
        """What the end of its function means. No error is too odd for that: else its entry would be held for ever."""
        try:
            return self._judge(error)
        except Exception as odd:
            log.exception("error_unjudged", run=self.taken.run, task=self.task.name)
            return self._fail(f"{words_of(error)} ({words_of(odd)})", "error")

    def _judge(self, error: BaseException) -> Unit | None:
        """A function that was stopped may raise what it likes."""
        is_cancelled = isinstance(error, asyncio.CancelledError)
        if self._stopped == "drop":
            return None
        if self._stopped == "lost":
            return self._units.give_back()
        if self._stopped == "cancel":
            return self._units.stop()
        if self._stopped == "release" or (self._is_hurried and is_cancelled):
            return self._units.release()
        if self._stopped == "timeout" and is_cancelled:
            return self._after(TimeoutError(f"it took longer than {self.task.timeout_seconds:g} s"))
        if is_cancelled:
            return self._fail("the task cancelled itself", "error")
        return self._after(error)

    def _after(self, error: BaseException) -> Unit:
        if isinstance(error, StaleAttempt) and error.run == self.taken.run:
            return self._units.give_back()
        if isinstance(error, RunClosed) and error.run == self.taken.run:
            return self._units.stop()
        if isinstance(error, GiveUp):
            return self._fail(text_of(error) or "given up", "given_up")
        if isinstance(error, RetryLater):
            return self._units.later(error.seconds)
        retry, tries, words = self.task.retry, self._begun.tries, words_of(error)
        unfit = isinstance(error, BadInput) and error.field.startswith("input")  # no further try makes it fit
        if unfit or isinstance(error, retry.never) or tries >= retry.attempts:
            return self._fail(words, "timeout" if isinstance(error, TimeoutError) else "error", error)
        delay = retry.delay_seconds(tries, random.random())
        log.info("try_failed", run=self.taken.run, task=self.task.name, attempt=self._begun.attempt, error=words)
        return self._units.retry(words, delay)

    def _fail(self, words: str, reason: str, error: BaseException | None = None) -> Unit:
        log.warning("run_failed", run=self.taken.run, task=self.task.name, reason=reason, error=words)
        return self._units.fail(words, reason, error)

    # Settlement.

    def _settled(self, answer: Settled) -> None:
        if answer.word == "refused":
            refused = IllegalEvent(
                f"what the handler did to another run was refused: {answer.detail}.", run=self.taken.run
            )
            self._effects = Effects(self.taken.run, self._put_live, self._crew.session.producer.max_event_bytes)
            self._settle(self._judged(refused))
            return
        if answer.word == "failed":
            log.error("settle_failed", run=self.taken.run, task=self.task.name, message=answer.detail)
        elif answer.word == "corrupt":
            log.error("run_corrupt", run=self.taken.run, task=self.task.name)
            self._crew.look_again()  # start sets it aside
        elif answer.word == "stale":
            log.warning("settled_too_late", run=self.taken.run, attempt=self._begun.attempt)
            self._settle(self._units.give_back())
            return
        self._forget()

    @property
    def is_unbegun(self) -> bool:
        """Whether it was neither begun nor given back."""
        return self._inner is None and not self._is_over

    def give_back(self, delay_ms: int | None = None) -> None:
        """It was not started: for another worker now, or (a limit) for anybody after so long."""
        self._is_over = True
        self._crew.over(self)
        self._crew.settle(self.partition, self._units.give_back(delay_ms), lambda answer: self._forget())

    def forget(self) -> None:
        """start was answered otherwise: somebody else has it, or nobody needs it any more."""
        self._is_over = True
        self._crew.over(self)
        self._forget()

    def _forget(self) -> None:
        if self._writer is not None:
            self._crew.session.producer.end_live(self._writer)
        self._crew.forget(self)

    # Stopping.

    def cancel(self) -> None:
        """A cancel was asked for: an ordinary cancellation, after which the function may clean up."""
        self._stop("cancel")

    def time_out(self) -> None:
        self._stop("timeout")

    def release(self) -> None:
        """The process ends: another worker begins the next attempt."""
        self._stop("release")

    def heard(self, answer: str) -> None:
        """What a renewal was told."""
        if answer == "cancelling" or answer.startswith("closed"):
            self._stop("cancel")  # somebody ended it: settling tells so, and takes its entry away
        elif answer in ("stale", "unknown") and self.runs and self._parking is None:  # else that answer says more
            log.warning("execution_lost", run=self.taken.run, attempt=self._begun.attempt, why=answer)
            self._stop("lost")

    def abandon(self) -> None:
        """As if the process had been killed: what its function still writes reaches nobody."""
        if self._writer is not None:
            self._writer.chain.abandon()
        self._stop("drop")

    def hurry(self) -> None:
        """Cancels it once more: what it does to clean up, or to send what it wrote, takes too long."""
        self._is_hurried = True
        self._cancel_inner()

    def _stop(self, why: Stopped) -> None:
        if self._inner is None:
            if why == "cancel":  # it was heard before the answer to start
                self._stopped = why
            return
        if self._inner.done() or self._stopped == "drop" or (self._is_over and why not in _FIRM):
            return
        now = self._inner.get_loop().time()
        if why == self._stopped:  # perhaps a library swallowed it
            is_due = now >= self._stopped_at + self._crew.session.settings.grace_seconds
        else:
            is_due = not self._stopped or why in _FIRM
        if is_due:
            self._stopped, self._stopped_at = why, now
            self._cancel_inner()

    def _cancel_inner(self) -> None:
        """In the next turn of the loop: a task that is cancelled before its first step never takes it, and would settle nothing."""
        if self._inner is not None:
            self._inner.get_loop().call_soon(self._inner.cancel)

    async def ended(self) -> None:
        if self._inner is not None:
            await asyncio.wait([self._inner])

    # Waiting: as its run's Places.

    def leave(self, ask: str, *, parks: bool) -> None:
        self._waits += 1
        if self._waits > 1:
            return
        self.ask, self._parks = ask, parks
        self.waits_since = asyncio.get_running_loop().time()
        self._crew.places.leave(self.task.name)

    def enter(self) -> None:
        self._waits -= 1
        if self._waits:
            return
        assert self.waits_since is not None
        self.deadline += asyncio.get_running_loop().time() - self.waits_since
        self.ask, self.waits_since = "", None
        self._crew.places.take(self.task.name)

    async def may_go_on(self) -> None:
        """While it is being parked nothing wakes it: if that counts, it goes on in another process."""
        if self._parking is not None:
            await asyncio.shield(self._parking)

    def park(self) -> None:
        """Gives the wait for an answer to the server, if it still waits."""
        if self._parking is None and self.ask and self._parks and self.runs and not self._stopped:
            self._parking = asyncio.get_running_loop().create_future()
            self._crew.settle(self.partition, self._units.park(self.ask), self._parked, self._chain)

    def step_aside(self) -> None:
        """If it waits: to be gone on with elsewhere."""
        if self.waits_since is not None:
            if self.ask and self._parks:
                self.park()
            else:
                self.release()

    def _parked(self, answer: Settled) -> None:
        parking, self._parking = self._parking, None
        if answer.word == "answered":
            if parking is not None and not parking.done():
                parking.set_result(None)
        else:
            self._stop("drop")
