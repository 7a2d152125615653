"""Calling a task's function: its input parsed, its dependencies made, through the middleware, in a thread where it blocks.

Whoever executes a run calls it this way: a worker, start_here, a test.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from processor.client.threads import in_thread

if TYPE_CHECKING:
    from processor.client.run import Run
    from processor.client.tailrace import Tailrace
    from processor.client.task import Task
    from processor.core.events import Event

__all__ = [
    "CallNext",
    "Executing",
    "Middleware",
    "enter_reaction",
    "executing",
    "executing_in_thread",
    "invoke",
    "invoke_values",
]

T = TypeVar("T")
CallNext = Callable[["Run[Any]"], Awaitable[Any]]
Middleware = Callable[["Run[Any]", CallNext], Awaitable[Any]]
"""async def middleware(run, call_next): what happens around each execution; `return await call_next(run)`."""


class Executing:
    """The execution that the present code belongs to."""

    __slots__ = ("_called", "_children", "_run", "_waits", "ended", "events", "is_cancelled", "loop", "tail", "task")

    def __init__(
        self,
        task: Task[..., Any] | None,
        tail: Tailrace,
        run: Run[Any] | None,
        loop: asyncio.AbstractEventLoop,
        events: Sequence[Event[Any]] = (),
    ) -> None:
        """task: None for a reaction to those events, whose run is that of the first. run: None: made when somebody asks for it.

        loop: the running one; who calls many has it, and asking for it costs a system call before Python 3.12.
        """
        self.task, self.tail, self._run = task, tail, run
        self.loop = loop  # `.sync` in its threads works here
        self.events = events
        self.ended = False
        self.is_cancelled = False  # and threads of it may still run
        self._waits: set[Future[Any]] | None = None  # of its threads
        self._called: dict[str, int] | None = None
        self._children: set[str] | None = None

    @property
    def run(self) -> Run[Any]:
        if self._run is None:
            from processor.client.run import Run

            self._run = Run._known(self.tail, self.events[0].run)
        return self._run

    @property
    def called(self) -> dict[str, int]:
        """Start hash → how many equal calls there were."""
        if self._called is None:
            self._called = {}
        return self._called

    @property
    def children(self) -> set[str]:
        """That its run's feed was told of."""
        if self._children is None:
            self._children = set()
        return self._children

    def wait(self, future: Future[T]) -> T:
        """In a thread of the execution: what the loop makes of it. Raises CancelledError where the execution is cancelled."""
        if self._waits is None:
            self._waits = set()
        self._waits.add(future)
        try:
            return future.result()
        except FutureCancelledError:
            raise asyncio.CancelledError("its execution was cancelled") from None
        finally:
            self._waits.discard(future)

    def cancel_waits(self) -> None:
        """A thread cannot be cancelled; what it waits for can, now and from now on."""
        self.is_cancelled = True
        for future in list(self._waits or ()):
            future.cancel()


_executing: ContextVar[Executing | None] = ContextVar("tailrace_executing", default=None)


def executing() -> Executing | None:
    """What is executed here, also in its threads; None outside, and in what an ended execution left behind."""
    here = _executing.get()
    return here if here is not None and not here.ended else None


def executing_in_thread() -> Executing | None:
    """As executing, for what a thread wants of a loop. Raises CancelledError where its execution was cancelled: it goes on beside
    the next try, and what it writes would be there besides what that one settles."""
    here = _executing.get()
    if here is not None and here.is_cancelled:
        raise asyncio.CancelledError("its execution was cancelled")
    return executing()


def enter_reaction(here: Executing) -> None:
    """What runs in this context from now on is that reaction, until it has `ended`."""
    _executing.set(here)


async def invoke(task: Task[..., Any], run: Run[Any], input: object) -> Any:
    """One execution's function, and what it returns. input: JSON of run.queued, as Python has it.

    Raises BadInput where the input does not fit, and what the function, a dependency or middleware raises.
    """
    return await invoke_values(task, run, task.inputs.parse(input))


async def invoke_values(task: Task[..., Any], run: Run[Any], values: Mapping[str, Any]) -> Any:
    """As invoke. values: typed arguments by name, of `Inputs.parse` or `Inputs.bind`."""
    here = Executing(task, run._tail, run, asyncio.get_running_loop())
    _executing.set(here)
    run.task = task.name
    try:
        if task.is_direct:
            return await task.function(run, **values)
        return await _through_middleware(task, run, values)
    finally:
        here.ended = True  # instead of a reset, which a coroutine that is dropped could not make in its own context


async def _through_middleware(task: Task[..., Any], run: Run[Any], values: Mapping[str, Any]) -> Any:
    async def function(run: Run[Any]) -> Any:
        return await _with_dependencies(task, run, values)

    call: CallNext = function
    for middleware in reversed(task.middleware):
        call = _around(middleware, call)
    return await call(run)


def _around(middleware: Middleware, call_next: CallNext) -> CallNext:
    return lambda run: middleware(run, call_next)


async def _with_dependencies(task: Task[..., Any], run: Run[Any], values: Mapping[str, Any]) -> Any:
    wanted = task.inputs.dependencies
    if not wanted:
        return await _call(task, run, values)
    made: dict[object, object] = {}
    async with AsyncExitStack() as stack:
        given = {name: await dependency.value(run, made, stack) for name, dependency in wanted.items()}
        return await _call(task, run, {**values, **given})


async def _call(task: Task[..., Any], run: Run[Any], values: Mapping[str, Any]) -> Any:
    if task.is_async:
        return await task.function(run, **values)
    from processor.client.sync import Portal, SyncRun

    plain: Callable[..., Any] = task.function
    try:
        return await in_thread(plain, SyncRun(run, Portal.of_running_loop()), **values)
    except asyncio.CancelledError:
        here = executing()
        if here is not None:
            here.cancel_waits()
        raise


def _in_child() -> None:
    """A fork() in a thread of an execution: what goes on in the child is no part of it."""
    _executing.set(None)


os.register_at_fork(after_in_child=_in_child)
