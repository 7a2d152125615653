"""Calling a task from a task: a child run now, and its result.

A child's ID says what it is: `<root of the parent>~<16 hex digits of parent, task, input and ordinal>`. So the parent's next
attempt finds the children of the ones before: a finished one gives its result again, one that runs is waited for, and
one that failed or was cancelled is followed by another, `….2`, `….3`, unless no further try can help. Children are queued at
once and from outside: they are no effects of their parent, which waits for them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.calling import Executing, executing
from processor.client.queueing import Options, input_hash, put_queued
from processor.client.run import Run
from processor.core.errors import BadInput, RunClosed, RunError, RunFailed, RunNotFound, ServerError
from processor.core.names import check_run

if TYPE_CHECKING:
    from processor.client.task import Task

__all__ = ["call", "check_child", "tell_of"]

log = structlog.get_logger("tailrace.call")
FINAL: Final = frozenset(
    {
        "given_up",  # it said itself that no further try can help
        "poison",  # it killed the processes that tried it: perhaps the parent's as well
    }
)
PASS_ON_SECONDS: Final = 1.0  # what a cancelled parent takes to tell its child


async def call(task: Task[..., Any], options: Options, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
    """The child's result. Raises RunFailed, RunCancelled, BadInput, BadName, RunExists, BacklogFull, ServerError, and
    RuntimeError outside of a task."""
    here = _parent(task)
    check_child(options)
    input = task.inputs.to_json(task.inputs.bind(args, kwargs))
    name = _name(here, input_hash(task.name, input), options)
    for number in itertools.count(1):
        child: Run[Any] = Run(task.tail, name if number == 1 else f"{name}.{number}")
        child._results = task.results
        try:
            is_new = await put_queued(child, task.name, input, options)
            if child.id not in here.children:
                here.children.add(child.id)
                tell_of(here.run, child.id, task.name)
            failure = None if is_new else await _failure(child)
            if failure is None:
                return await _result(here.run, child)
            if isinstance(failure, RunFailed) and failure.reason in FINAL:
                raise failure
        except RunClosed as closed:
            if closed.run != child.id or closed.status != "succeeded":
                raise
            log.warning("child_expired", run=here.run.id, child=child.id)  # it finished, and nobody knows how
        except asyncio.CancelledError:
            await _pass_on(here.run, child)
            raise
    raise AssertionError("numbers do not end")


def tell_of(parent: Run[Any], child: str, task: str) -> None:
    """Its parent's feed says that there is a child: live, in each attempt that asked for it. Raises BufferFull, RunError."""
    parent._send("child.started", {"run": child, "task": task})


def _parent(task: Task[..., Any]) -> Executing:
    here = executing()
    if here is None or here.loop is not asyncio.get_running_loop():
        where = "outside of a task" if here is None else "in another event loop than that of its task"
        raise RuntimeError(
            f"{task.name}.call(...) {where}: there is no run whose child it would be. "
            f"Elsewhere: run = await {task.name}.start(...), then await run.result()"
        )
    return here


def check_child(options: Options) -> None:
    """Raises BadInput for what a child cannot have."""
    if options.thread is not None:
        raise BadInput(
            "a child belongs to its parent's run, not to a thread.",
            remedy="Use start for a run of its own.",
            field="thread",
            value=options.thread,
        )
    if options.delay_seconds:
        raise BadInput(
            "a child is waited for and begins at once; delay_seconds needs start.",
            field="delay_seconds",
            value=str(options.delay_seconds),
        )


def _name(here: Executing, start: str, options: Options) -> str:
    """The child's ID, without the number of a further try. start: hash of task and input."""
    parent = here.run.id
    root = parent.partition("~")[0]
    if options.id is not None:
        return check_run(f"{root}~{options.id}")
    ordinal = here.called[start] = here.called.get(start, 0) + 1
    return f"{root}~{hashlib.sha256(f'{parent} {start} {ordinal}'.encode()).hexdigest()[:16]}"


async def _failure(child: Run[Any]) -> RunError | None:
    """How a child of an earlier attempt failed or was cancelled; None if it goes on, or finished."""
    if (await child.state()).status not in ("failed", "cancelled"):
        return None
    try:
        await child.result()
    except RunError as error:
        return error
    return None


async def _result(parent: Run[Any], child: Run[Any]) -> Any:
    with parent._elsewhere():
        parent._awaited |= {child.id}
        try:
            result = await child.result()
        except RunError:
            await parent._may_go_on()
            raise
        finally:
            parent._awaited -= {child.id}
        await parent._may_go_on()
    return result


async def _pass_on(parent: Run[Any], child: Run[Any]) -> None:
    """Whoever cancels the parent means its child as well. A try that ends otherwise leaves it to the next one."""
    try:
        async with asyncio.timeout(PASS_ON_SECONDS):
            state = await parent.state()
            if state.cancel is not None or state.status == "cancelled":
                await child.cancel(state.cancel or "")
    except RunNotFound:
        pass  # it was not queued yet
    except (ServerError, TimeoutError) as error:
        log.warning("cancel_not_passed_on", run=parent.id, child=child.id, error=str(error))
