"""`.sync`: the same objects for code that blocks. One background thread runs the event loop for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from typing_extensions import TypeVar

from processor.client.blocks import enter_block, leave_block
from processor.client.parts import Message, Tool
from processor.client.portal import Portal
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.client.task import Task
from processor.client.thread import Thread
from processor.core.events import Event
from processor.core.lifecycle import Status
from processor.store.runs import RunState

if TYPE_CHECKING:
    from processor.client.flows import Flow

__all__ = ["Portal", "SyncFlow", "SyncMessage", "SyncRun", "SyncTailrace", "SyncTask", "SyncThread", "SyncTool"]

P = ParamSpec("P")
R = TypeVar("R", default=Any)
M = TypeVar("M")


class SyncMessage:
    """An open message."""

    def __init__(self, message: Message, portal: Portal) -> None:
        self._message, self._portal = message, portal
        self.id = message.id

    def write(self, text: str) -> str:
        """Its feed ID, once Redis has it."""

        async def call() -> str:
            return await self._message.write(text)

        return self._portal.call(call())

    @property
    def text(self) -> str:
        return self._message.text


class SyncTool:
    """A tool call under way."""

    def __init__(self, tool: Tool, portal: Portal) -> None:
        self._tool, self._portal = tool, portal
        self.id = tool.id

    def result(self, value: object) -> str:
        """Its feed ID, once Redis has it."""

        async def call() -> str:
            return await self._tool.result(value)

        return self._portal.call(call())


class SyncRun(Generic[R]):
    """Run, blocking: what writes returns the feed ID once Redis has it."""

    def __init__(self, run: Run[R], portal: Portal) -> None:
        self._run, self._portal = run, portal
        self.id = run.id

    @property
    def attempt(self) -> int:
        return self._run.attempt

    @property
    def task(self) -> str:
        return self._run.task

    def __repr__(self) -> str:
        return f"<SyncRun {self.id}>"

    def write(self, text: str) -> str:
        async def call() -> str:
            return await self._run.write(text)

        return self._portal.call(call())

    def log(self, message: str, *, level: str = "info", **fields: object) -> str:
        async def call() -> str:
            return await self._run.log(message, level=level, **fields)

        return self._portal.call(call())

    def emit(self, type: str, data: object = None) -> str:
        async def call() -> str:
            return await self._run.emit(type, data)

        return self._portal.call(call())

    def set(self, **state: object) -> str:
        async def call() -> str:
            return await self._run.set(**state)

        return self._portal.call(call())

    @contextmanager
    def message(self, role: str = "assistant") -> Iterator[SyncMessage]:
        with self._portal.entered(self._run.message(role)) as message:
            yield SyncMessage(message, self._portal)

    @contextmanager
    def reasoning(self) -> Iterator[SyncMessage]:
        with self._portal.entered(self._run.reasoning()) as reasoning:
            yield SyncMessage(reasoning, self._portal)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        with self._portal.entered(self._run.step(name)):
            yield

    @contextmanager
    def tool(self, name: str, args: object) -> Iterator[SyncTool]:
        with self._portal.entered(self._run.tool(name, args)) as tool:
            yield SyncTool(tool, self._portal)

    def ask(self, question: str, answer: type[M], *, timeout_seconds: float | None = None) -> M:
        return self._portal.call(self._run.ask(question, answer, timeout_seconds=timeout_seconds))

    def follow(self, *, after: str | None = None, live: bool = True) -> Iterator[Event[Any]]:
        return self._portal.iterate(self._run.follow(after=after, live=live))

    def state(self) -> RunState:
        return self._portal.call(self._run.state())

    def text(self) -> str:
        return self._portal.call(self._run.text())

    def result(self, timeout_seconds: float | None = None) -> R:
        return self._portal.call(self._run.result(timeout_seconds))

    def cancel(self, reason: str = "") -> bool:
        return self._portal.call(self._run.cancel(reason))

    def answer(self, value: object, *, ask: str | None = None) -> None:
        self._portal.call(self._run.answer(value, ask=ask))

    def link(self, *, seconds: int = 3600) -> str:
        return self._run.link(seconds=seconds)

    def __enter__(self) -> SyncRun[R]:
        async def enter() -> asyncio.AbstractEventLoop:
            await self._run.__aenter__()
            return asyncio.get_running_loop()

        enter_block(self._run, self._portal.call(enter()))  # here as well: the other thread's context is not ours
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        leave_block(self._run)
        self._portal.call(self._run.__aexit__(kind, error, trace))


class SyncTask(Generic[P, R]):
    """Task, blocking until Redis has the run."""

    def __init__(self, task: Task[P, R], portal: Portal) -> None:
        self._task, self._portal = task, portal

    def options(
        self,
        *,
        id: str | None = None,
        thread: str | None = None,
        labels: Mapping[str, str] | None = None,
        delay_seconds: float = 0,
    ) -> SyncTask[P, R]:
        twin = self._task.options(id=id, thread=thread, labels=labels, delay_seconds=delay_seconds)
        return SyncTask(twin, self._portal)

    def start(self, *args: P.args, **kwargs: P.kwargs) -> SyncRun[R]:
        return SyncRun(self._portal.call(self._task.start(*args, **kwargs)), self._portal)

    def start_here(self, *args: P.args, **kwargs: P.kwargs) -> SyncRun[R]:
        return SyncRun(self._portal.call(self._task.start_here(*args, **kwargs)), self._portal)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._portal.call(self._task.call(*args, **kwargs))


class SyncFlow(Generic[R]):
    """Flow, blocking until Redis has the run."""

    def __init__(self, flow: Flow[R], portal: Portal) -> None:
        self._flow, self._portal = flow, portal

    def options(
        self,
        *,
        id: str | None = None,
        thread: str | None = None,
        labels: Mapping[str, str] | None = None,
        delay_seconds: float = 0,
    ) -> SyncFlow[R]:
        twin = self._flow.options(id=id, thread=thread, labels=labels, delay_seconds=delay_seconds)
        return SyncFlow(twin, self._portal)

    def start(self) -> SyncRun[R]:
        return SyncRun(self._portal.call(self._flow.start()), self._portal)

    def start_here(self) -> SyncRun[R]:
        return SyncRun(self._portal.call(self._flow.start_here()), self._portal)

    def call(self) -> R:
        return self._portal.call(self._flow.call())


class SyncThread:
    """Thread, blocking."""

    def __init__(self, thread: Thread, portal: Portal) -> None:
        self._thread, self._portal = thread, portal
        self.id = thread.id

    def active(self) -> SyncRun[Any] | None:
        run = self._portal.call(self._thread.active())
        return SyncRun(run, self._portal) if run is not None else None

    def runs(self) -> Iterator[RunState]:
        return self._portal.iterate(self._thread.runs())


class SyncTailrace:
    """Tailrace, blocking. `with tail.sync:` opens early and drains at the end; it is not needed."""

    def __init__(self, tail: Tailrace, portal: Portal) -> None:
        self._tail, self._portal = tail, portal

    def run(self, id: str | None = None, *, labels: Mapping[str, str] | None = None) -> SyncRun[Any]:
        return SyncRun(self._tail.run(id, labels=labels), self._portal)

    def thread(self, id: str) -> SyncThread:
        return SyncThread(self._tail.thread(id), self._portal)

    def start(self, task: str, /, **input: object) -> SyncRun[Any]:
        return SyncRun(self._portal.call(self._tail.start(task, **input)), self._portal)

    def runs(
        self, *, status: Status | None = None, task: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[RunState]:
        return self._portal.iterate(self._tail.runs(status=status, task=task, labels=labels))

    def close(self) -> None:
        """Ends what `.sync` opened."""
        self._portal.call(self._tail.close())

    def __enter__(self) -> SyncTailrace:
        self._portal.call(self._tail.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self._portal.call(self._tail.__aexit__(kind, error, trace))
