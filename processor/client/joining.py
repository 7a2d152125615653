"""Executing flows: the function of the built-in task that every worker has.

It decides nothing that is not in its plan and in how its children ended, so that its next attempt, in another process,
goes on where the last one was killed: names of children are made of their places in the plan, results stay with the children
and are passed on by reference. Children end in whatever way, and are followed as anybody's runs are.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.activity import Activity
from processor.client.calls import tell_of
from processor.client.queueing import Options, put_queued
from processor.client.references import ByReference, TooLarge, failure_in, resolve
from processor.client.run import Run
from processor.core.backoff import GiveUp, Retry
from processor.core.errors import (
    BacklogFull,
    BadInput,
    IllegalEvent,
    RunClosed,
    RunError,
    RunExists,
    RunNotFound,
    ServerError,
)
from processor.core.events import Event, payload_type
from processor.core.json import dumps
from processor.core.lifecycle import TERMINAL
from processor.core.plan import FLOW, Plan, PlannedChain, PlannedGroup, PlannedStep, child_name, parse_plan, steps_of
from processor.core.references import ChildFailed, Reference, failed_reference, reference_to
from processor.store.connection import execute, speaking_of
from processor.store.runs import read_feed, read_tail
from processor.store.space import ms_of

if TYPE_CHECKING:
    from processor.client.session import Session
    from processor.client.tailrace import Tailrace
    from processor.client.task import Task

__all__ = ["flow_task"]

log = structlog.get_logger("tailrace.flow")
PAGE: Final = 1000  # events of the flow's own feed
CANCEL_SECONDS: Final = 5.0  # what a flow that ends takes to tell its children
CANCELS_AT_ONCE: Final = 20
ROOM: Final = 512  # bytes of run.finished beside the result
DEADLINE: Final = "not done within the deadline of its flow"  # the reason of the cancel, by which it is known again
FATAL: Final = (BadInput, RunExists, IllegalEvent)  # no further attempt can mend it
_RETRY: Final = Retry(
    attempts=1000,  # each worker that is killed counts as one, and flows are long; what cannot be mended gives up
    cap_seconds=60,
    never=(BadInput, RunError, TypeError, ValueError, LookupError, AttributeError, AssertionError),
)
_LONG: Final = 10 * 366 * 86_400.0  # a flow has deadlines of its own


def flow_task(tail: Tailrace) -> Task[[dict[str, Any]], Any]:
    """The task that executes this Tailrace's flows; always the same one."""
    from processor.client.task import Policy, Task

    known: Task[[dict[str, Any]], Any] | None = tail.__dict__.get("_flow_task")
    if known is None:
        known = Task(tail, _flow, name=FLOW, policy=Policy(retry=_RETRY, timeout_seconds=_LONG))
        tail.__dict__["_flow_task"] = known
    return known


async def _flow(run: Run[Any], plan: dict[str, Any]) -> Any:
    """plan: JSON of core/plan.py. Its result, or, where it is too large for an event, a reference to it."""
    planned = parse_plan(plan)
    joining = await _Joining.begun(run, planned)
    try:
        reference = await joining.node(planned, "0", None, float("inf"))
    except asyncio.CancelledError:
        await joining.pass_on()
        raise
    except _Lost as lost:
        raise GiveUp(str(lost)) from None
    except FATAL as error:
        await joining.cancel_below("0", f"its flow failed: {error.message}")
        raise GiveUp(str(error)) from error
    finally:
        joining.end()
    return await _value(await run._session(), run.id, reference)


async def _value(session: Session, run: str, reference: Reference) -> Any:
    limit = session.producer.max_event_bytes - ROOM
    try:
        with speaking_of(session.server.address.url):
            value = await resolve(session, run, reference, what="the flow's result", at_most=limit * 2)
    except TooLarge:
        return ByReference(reference)
    return value if len(dumps(value)) <= limit else ByReference(reference)


class _Lost(Exception):
    """A child has no result, and its join does not go on without."""

    def __init__(self, failed: ChildFailed, task: str) -> None:
        child = f"child {failed.child}" if failed.child else "a child that was not begun"
        super().__init__(f"{child} of task {task} failed ({failed.reason}): {failed.error}")
        self.failed = failed

    @property
    def reference(self) -> Reference:
        """What stands in its place. Where the child's own end says as much, that is what is read."""
        if self.failed.child and self.failed.reason not in ("deadline", "expired"):
            return reference_to(self.failed.child)
        return failed_reference(self.failed)


@dataclass(frozen=True, slots=True)
class _History:
    """What the flow's feed says of its attempts. Times in ms, by the server's clock."""

    first_ms: int  # when the first one began
    children: dict[str, int]  # run → when it was begun


class _Joining:
    """One attempt."""

    def __init__(self, run: Run[Any], history: _History, now_ms: int) -> None:
        self._run, self._history = run, history
        self._activity = Activity(run)
        self._open: dict[str, str] = {}  # children that may be going on, with their paths
        self._loop = asyncio.get_running_loop()
        self._ahead = now_ms / 1000 - self._loop.time()  # of the server's clock

    @classmethod
    async def begun(cls, run: Run[Any], plan: Plan) -> _Joining:
        """Raises ServerError."""
        session = await run._session()
        with speaking_of(session.server.address.url):
            now = ms_of(await execute(session.redis, "TIME"))
            history = await _read_history(session, run.id) if run.attempt > 1 else _History(now, {})
        return cls(run, history, now)

    def end(self) -> None:
        self._activity.end()

    def _now(self) -> float:
        """Seconds since 1970, by the server's clock."""
        return self._loop.time() + self._ahead

    async def node(self, plan: Plan, path: str, given: Reference, until: float) -> Reference:
        """What it results in. given: the result before it. until: seconds by the server's clock. Raises _Lost, ServerError,
        BadInput, RunError."""
        if isinstance(plan, PlannedStep):
            return await self._step(plan, path, given, until)
        until = min(until, self._deadline(plan, path))
        if isinstance(plan, PlannedGroup):
            return await self._group(plan, path, given, until)
        for number, node in enumerate(plan.nodes):
            given = await self.node(node, f"{path}.{number}", given, until)
        return given

    def _deadline(self, plan: PlannedChain | PlannedGroup, path: str) -> float:
        """Counted from the first attempt of the whole, and of a part from when its first child was begun."""
        if plan.deadline_seconds is None:
            return float("inf")
        if path == "0":
            return self._history.first_ms / 1000 + plan.deadline_seconds
        names = (child_name(self._run.id, at, step) for at, step in steps_of(plan, path))
        times = [self._history.children[name] for name in names if name in self._history.children]
        return (min(times) / 1000 if times else self._now()) + plan.deadline_seconds

    # Groups.

    async def _group(self, plan: PlannedGroup, path: str, given: Reference, until: float) -> Reference:
        nodes = enumerate(plan.nodes)
        branches = [self._loop.create_task(self._branch(node, f"{path}.{n}", given, until)) for n, node in nodes]
        try:
            await self._all(branches, stops=plan.on_failure == "fail")
        except _Lost as lost:
            await self.cancel_below(path, f"another of its group failed: {lost}")
            raise
        places = [branch.result() for branch in branches]
        if plan.on_failure == "ignore":
            return [one for one in places if not isinstance(one, _Lost)]
        return [one.reference if isinstance(one, _Lost) else one for one in places]

    async def _branch(self, plan: Plan, path: str, given: Reference, until: float) -> Reference | _Lost:
        try:
            return await self.node(plan, path, given, until)
        except _Lost as lost:
            return lost

    async def _all(self, branches: list[asyncio.Task[Any]], *, stops: bool) -> None:
        """Waits for them. stops: the first one that is lost is raised. None of them is left behind."""
        over: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
        for branch in branches:
            branch.add_done_callback(over.put_nowait)
        left, waits = len(branches), False
        self._activity.more(left)
        try:
            while left:
                self._activity.less()
                waits = True
                branch = await over.get()
                left, waits = left - 1, False
                outcome = branch.result()
                if stops and isinstance(outcome, _Lost):
                    raise outcome
        finally:
            if left or waits:
                await _stop(branches)
                self._activity.less(left - waits)

    # Steps.

    async def _step(self, step: PlannedStep, path: str, given: Reference, until: float) -> Reference:
        child: Run[Any] = Run(self._run._tail, child_name(self._run.id, path, step))
        if child.id not in self._history.children:
            if self._now() >= until:
                raise _Lost(ChildFailed("", "deadline", DEADLINE), step.task)
            self._open[child.id] = path
            await self._begin(child, step, given, until)
        self._open[child.id] = path
        last = await self._end(child, step, until)
        del self._open[child.id]
        if last is None or last.type == "run.finished":
            return reference_to(child.id)
        failed = failure_in(last)
        if failed.reason == "cancelled" and failed.error == DEADLINE:
            failed = ChildFailed(child.id, "deadline", DEADLINE)
        raise _Lost(failed, step.task)

    async def _begin(self, child: Run[Any], step: PlannedStep, given: Reference, until: float) -> None:
        """Queues it, unless an earlier attempt has. Raises _Lost, ServerError, BadInput, RunExists."""
        while True:
            try:
                await self._queue(child, step, given)
            except BacklogFull as full:
                pause = min(full.retry_after_seconds, until - self._now())
                if pause <= 0:
                    raise _Lost(ChildFailed("", "deadline", DEADLINE), step.task) from full
                with self._activity.waiting():  # what is queued may need this place
                    await asyncio.sleep(pause)
            except RunExists:
                if step.id is not None:
                    raise
                break  # an earlier attempt gave it what it knew then, of children that were late
            else:
                break
        tell_of(self._run, child.id, step.task)

    async def _queue(self, child: Run[Any], step: PlannedStep, given: Reference) -> None:
        """Not left half done: a child that nobody knows of would be cancelled by nobody."""
        references = dict.fromkeys(step.previous, given)
        queued = put_queued(child, step.task, dumps(step.input), Options(labels=step.labels), references)
        putting = self._loop.create_task(queued)
        try:
            await asyncio.shield(putting)
        except asyncio.CancelledError:
            await _stop([putting], seconds=CANCEL_SECONDS)
            raise

    async def _end(self, child: Run[Any], step: PlannedStep, until: float) -> Event[Any] | None:
        """Its last event, None if it succeeded and that has expired. Raises _Lost, ServerError."""
        try:
            seconds = until - self._now()
            if seconds > 0:
                try:
                    async with asyncio.timeout(seconds if seconds < _LONG else None) as limit:
                        with self._activity.waiting(child.id):
                            return await child._last_event()
                except TimeoutError:
                    if not limit.expired():
                        raise
            if await self._has_ended(child) or not await child.cancel(DEADLINE):
                return await child._last_event()
        except RunClosed as closed:
            if closed.status == "succeeded":
                return None
            raise _Lost(ChildFailed(child.id, closed.status, "what it said has expired"), step.task) from closed
        except RunNotFound as unknown:
            raise _Lost(ChildFailed(child.id, "expired", unknown.message), step.task) from unknown
        raise _Lost(ChildFailed(child.id, "deadline", DEADLINE), step.task)

    async def _has_ended(self, child: Run[Any]) -> bool:
        session = await child._session()
        with speaking_of(session.server.address.url):
            found = await read_tail(session, child.id)
        return found is not None and found[0] in TERMINAL

    # Ends.

    async def pass_on(self) -> None:
        """Whoever cancels the flow means its children as well. An attempt that ends otherwise leaves them to the next one."""
        self._activity.end()
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                state = await self._run.state()
                if state.cancel is not None or state.status == "cancelled":
                    await self.cancel_below("0", state.cancel or "")
        except RunNotFound:
            pass  # it has expired
        except (ServerError, TimeoutError) as error:
            log.warning("cancel_not_passed_on", run=self._run.id, children=len(self._open), error=str(error))

    async def cancel_below(self, path: str, reason: str) -> None:
        """Asks the children of that part that may be going on to stop. Raises ServerError."""
        found = [child for child, at in self._open.items() if f"{at}.".startswith(f"{path}.")]
        turns = asyncio.Semaphore(CANCELS_AT_ONCE)

        async def cancel(child: str) -> None:
            async with turns:
                with contextlib.suppress(RunNotFound):  # it was not queued yet
                    await Run(self._run._tail, child).cancel(reason)
                del self._open[child]

        await asyncio.gather(*(cancel(child) for child in found))


async def _stop(tasks: list[asyncio.Task[Any]], seconds: float | None = None) -> None:
    """Cancels them, or, where seconds are given, lets them end by themselves for so long. What they raise is nobody's."""
    if seconds is not None:
        await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def _read_history(session: Session, run: str) -> _History:
    first_ms = 0
    children: dict[str, int] = {}
    seq = 1
    while True:
        events = await read_feed(session, run, seq, count=PAGE)
        for id, payload in events:
            type = payload_type(payload)
            if type == "run.started":
                first_ms = first_ms or id.ms
            elif type == "child.started":
                data = Event[Any](run, id, payload).data
                if isinstance(data, dict) and isinstance(data.get("run"), str):
                    children.setdefault(data["run"], id.ms)
        if len(events) < PAGE:
            return _History(first_ms, children)
        seq = events[-1][0].seq + 1
