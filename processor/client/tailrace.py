"""Tailrace: client and registry in one object, which web and worker import under the same name."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, NamedTuple, ParamSpec, Protocol, overload

from typing_extensions import TypeVar

from processor.client.calling import Middleware, executing
from processor.client.queueing import Options, start_queued
from processor.client.reaction import Group, OnDead, Reaction, ReactionPolicy
from processor.client.run import Run
from processor.client.session import Session
from processor.client.task import Policy, Task
from processor.client.thread import Thread
from processor.core.backoff import Retry
from processor.core.errors import NotConfigured
from processor.core.json import dumps
from processor.core.lifecycle import Status
from processor.core.names import check_labels, check_namespace
from processor.core.routing import Binding
from processor.core.settings import Settings
from processor.core.ulid import ulid
from processor.store.connection import speaking_of
from processor.store.groups import Declared, WhenBehind
from processor.store.runs import RunState, list_runs

if TYPE_CHECKING:
    from processor.client.inlet import Inlet, Map
    from processor.client.limiter import Limiter
    from processor.client.portal import Portal
    from processor.client.sync import SyncRun, SyncTailrace
    from processor.core.rate import Limit, Rate
    from processor.core.schedule import Schedule

__all__ = ["Tailrace"]

P = ParamSpec("P")
R = TypeVar("R", default=Any)
H = TypeVar("H", bound=Callable[..., Any])


class _Decorator(Protocol):
    """What makes a function a task."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Run[Any], P], Awaitable[R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, fn: Callable[Concatenate[SyncRun[Any], P], R], /) -> Task[P, R]: ...


class _Here(NamedTuple):
    """A thread runs one loop at a time: while this one runs in it, it is the running one."""

    thread: int
    loop: asyncio.AbstractEventLoop
    session: Session


class Tailrace:
    """Makes no I/O until something is awaited or written; then it opens itself, in each event loop anew."""

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        imports: Sequence[str] = (),
        settings: Settings | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """url: argument, TAILRACE_REDIS_URL, REDIS_URL, server of `tailrace up`, else NotConfigured on first use.

        imports: modules a worker loads. settings: instead of the environment. middleware: around each execution of a
        task, outermost first.
        """
        self._url = url
        self._namespace = check_namespace(namespace) if namespace is not None else None
        self._given = settings
        self._settings: Settings | None = None
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Session] = weakref.WeakKeyDictionary()
        self._here: _Here | None = None  # the session asked for last
        self._entered = 0
        self.imports = tuple(imports)
        self.middlewares: list[Middleware] = list(middleware)
        self.tasks: dict[str, Task[..., Any]] = {}
        self.reactions: dict[str, Group] = {}
        self.inlets: dict[str, Inlet] = {}

    @property
    def settings(self) -> Settings:
        """Read from the environment when first needed. Raises SettingsError."""
        if self._settings is None:
            settings = self._given
            if settings is None:
                reads = self._url is None
                settings = (
                    Settings.from_env(os.environ, folder=Path.cwd()) if reads else Settings.from_env({}, folder=None)
                )
            if self._url is not None:
                settings = settings.changed("argument", redis_url=self._url)
            if self._namespace is not None:
                settings = settings.changed("argument", namespace=self._namespace)
            self._settings = settings
        return self._settings

    @property
    def sync(self) -> SyncTailrace:
        """The same, blocking, on one background thread: for Django, Flask, scripts."""
        from processor.client.sync import SyncTailrace

        return SyncTailrace(self, self.portal)

    @property
    def portal(self) -> Portal:
        """The background thread of `.sync`; a forked child gets its own. In a task it is the task's own loop."""
        from processor.client.portal import Portal

        here = executing()
        return Portal(here.loop) if here is not None else self.background

    @property
    def background(self) -> Portal:
        """The background thread of `.sync`, also in a task: whatever holds the task's loop does not hold it."""
        from processor.client.portal import Portal

        known: Portal | None = self.__dict__.get("_background")
        if known is None:  # in one step, since threads that come at once must share it; it is no thread yet
            known = self.__dict__.setdefault("_background", Portal.background(self.close))
        return known

    def in_namespace(self, namespace: str) -> Tailrace:
        """The same server, another namespace; tasks are not taken along."""
        return Tailrace(settings=self.settings.changed("argument", namespace=check_namespace(namespace)))

    # Tasks.

    @overload
    def task(self, fn: Callable[Concatenate[Run[Any], P], Awaitable[R]]) -> Task[P, R]: ...

    @overload
    def task(self, fn: Callable[Concatenate[SyncRun[Any], P], R]) -> Task[P, R]: ...

    @overload
    def task(
        self,
        *,
        name: str | None = None,
        retry: Retry | int = 3,
        timeout_seconds: float = 600,
        concurrency: int = 64,
        cron: str | Schedule | None = None,
        rate: str | Rate | None = None,
        limit: int | Limit | None = None,
    ) -> _Decorator: ...

    def task(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        retry: Retry | int = 3,
        timeout_seconds: float = 600,
        concurrency: int = 64,
        cron: str | Schedule | None = None,
        rate: str | Rate | None = None,
        limit: int | Limit | None = None,
    ) -> Any:
        """A function whose call is a run: started when called, its return value finishes it, its last failure fails it.

        A plain def runs in a thread, with a SyncRun, whose methods block.
        name: the function's by default. retry: how often it is tried, or how. timeout_seconds: of one try.
        concurrency: executions at once in one worker process. cron: when it starts by itself, without arguments, as
        "0 7 * * 1-5" in UTC or a Schedule. rate: how often it begins, over all workers, as "60/min" or a Rate. limit: how
        many run at once over all workers, or a Limit. Raises BadInput, BadName.
        """
        policy = Policy.of(
            retry=retry, timeout_seconds=timeout_seconds, concurrency=concurrency, cron=cron, rate=rate, limit=limit
        )

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            named = name or str(getattr(function, "__name__", "task"))
            frame = sys._getframe(1 if fn is None else 2)
            task: Task[..., Any] = Task(self, function, name=named, policy=policy, frame=frame)
            known = self.tasks.get(task.name)
            if known is not None:
                _check_same(task.name, known.function, function)
            self.tasks[task.name] = task
            return task

        return register if fn is None else register(fn)

    def inlet(
        self,
        stream: str,
        map: Map | None = None,
        *,
        name: str | None = None,
        start: Literal["first", "now"] = "first",
        url: str | None = None,
    ) -> Inlet:
        """Workers append each entry of a stream that others write with plain XADD to a run, exactly once and in order.

        map: what becomes of an entry; or decorate a function: `@tail.inlet("orders")`. Without one its fields run, type and
        data say it. name: of the inlet, the stream's key by default. start: where a new inlet begins. url: the stream's
        server, if it is another one. Raises BadInput, BadName, ValueError.
        """
        from processor.client.inlet import Inlet

        known = self.inlets.get(stream if name is None else name)
        inlet = Inlet(stream, map, name=name, start=start, url=url, known=known)
        self.inlets[inlet.name] = inlet
        return inlet

    def on(
        self,
        pattern: str,
        *,
        group: str | None = None,
        where: Mapping[str, str] | None = None,
        ordered: bool = False,
        batch: int = 1,
        concurrency: int = 64,
        timeout_seconds: float = 60,
        retry: Retry | int = 3,
        start: Literal["first", "now"] = "first",
        when_behind: WhenBehind = "detach",
        on_dead: OnDead = "go_on",
    ) -> Callable[[H], H]:
        """A reaction to events of any run; what it emits happens once, when it returns.

        The function takes `event`, or with `batch` a list of them, and if it likes `run`, a handle of the event's run. A plain
        def runs in a thread.
        pattern: of the type: words divided by dots, * for one, # for any number; increments are named by their last word.
        group: the function's name by default; groups have positions of their own, and of a group one reaction handles an
        event. where: labels that the event must have. ordered: events of a run one after the other. batch: events of a call
        at most. concurrency: calls at once in one worker process. timeout_seconds: of one call. start: where a new group
        begins, at the first entry still in the log or now. when_behind: a group that lets the log fill up is cut off, or
        producers are refused. on_dead: what becomes of a run's later events behind one that failed for good, where they are
        ordered. Raises BadInput, BadName.
        """
        policy = ReactionPolicy(
            ordered=ordered,
            batch=batch,
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            retry=retry if isinstance(retry, Retry) else Retry(attempts=retry),
            start=start,
            when_behind=when_behind,
            on_dead=on_dead,
        )
        binding = Binding(pattern, dict(where) if isinstance(where, Mapping) else where or {})
        frame = sys._getframe(1)

        def register(function: H) -> H:
            reaction = Reaction(self, function, binding, policy, group=group, frame=frame)
            known = self.reactions.get(reaction.group) or Group(reaction.group, reaction)
            known.add(reaction)
            self.reactions[known.name] = known
            return function

        return register

    def middleware(self, fn: Middleware) -> Middleware:
        """Decorator: what happens around each execution of a task, inside of the middleware before it.

        It is called as `await fn(run, call_next)`, and executes the task by `return await call_next(run)`.
        """
        self.middlewares.append(fn)
        return fn

    def limiter(self, name: str, rate: str | Rate) -> Limiter:
        """A rate that is shared by all processes: `await limiter.take(1200)` waits until it allows that many."""
        from processor.client.limiter import Limiter

        return Limiter(self, name, rate)

    def load_imports(self) -> list[str]:
        """Imports the modules of `imports` and returns their names. Raises what importing raises."""
        for name in self.imports:
            importlib.import_module(name)
        return list(self.imports)

    async def start(self, task: str, /, **input: object) -> Run[Any]:
        """As Task.start, for a process that does not import the task's code."""
        return await start_queued(self, task, dumps(input), Options())

    # Handles.

    def run(self, id: str | None = None, *, labels: Mapping[str, str] | None = None) -> Run[Any]:
        """A handle, no I/O. Entered with `async with` it creates the run and owns it: success, failure or cancellation at the end."""
        return Run(self, id if id is not None else ulid(), labels=labels)

    def thread(self, id: str) -> Thread:
        """A conversation: runs one after the other, at most one active."""
        return Thread(self, id)

    async def runs(
        self, *, status: Status | None = None, task: str | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[RunState]:
        """Newest change first."""
        session = await self.session()
        after: str | None = None
        labels = check_labels(labels or {})
        while True:
            with speaking_of(session.server.address.url):
                page, after = await list_runs(session, status=status, task=task, labels=labels, after=after)
            for state in page:
                yield state
            if after is None:
                return

    # Life.

    def lifespan(self, app: object) -> AbstractAsyncContextManager[None]:
        """For FastAPI(lifespan=...) or Starlette; in your own lifespan write `async with tail:`.

        Checks the server early, drains at the end; entered twice is fine.
        """

        @asynccontextmanager
        async def living() -> AsyncIterator[None]:
            async with self:
                yield

        return living()

    async def __aenter__(self) -> Tailrace:
        """Opens it now. Raises ServerError, SettingsError, NotConfigured."""
        try:
            session = await self.session()
            await session.server.check_writes(session.settings)
        except BaseException:
            if self._entered == 0:
                await self.close()
            raise
        session.owners.waited_for = True
        self._entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered == 0:
            await self.close(drain_seconds=self.settings.drain_seconds if error is None else 0.0)

    async def close(self, *, drain_seconds: float = 0.0) -> None:
        """Ends what was opened in this loop; runs of start_here may end within drain_seconds, then they fail as shutdown."""
        self._here = None
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None and session.pid == Session.process:
            await session.close(drain_seconds=drain_seconds)

    async def session(self) -> Session:
        """What it holds in the running loop, open. Raises ServerError, NotConfigured."""
        return await self._current().ready()

    def _current(self) -> Session:
        """The running loop's session, which may still be opening: events wait in it."""
        # Asked with each write: to look into a WeakKeyDictionary takes as long as the write itself, and so does
        # get_running_loop(), which asks the kernel for the process's ID before Python 3.12.
        here = self._here
        if (
            here is not None
            and here.thread == get_ident()
            and here.loop.is_running()
            and here.session.pid == Session.process
        ):
            return here.session
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.pid != Session.process:
            url = self.settings.redis_url
            if url is None:
                raise NotConfigured(remedy="Set TAILRACE_REDIS_URL=redis://localhost:6379, or run `tailrace up` here.")
            self._forget_closed_loops()
            session = self._sessions[loop] = Session(url, self.settings, self._declared)
            session.start()
        self._here = _Here(get_ident(), loop, session)
        return session

    def _declared(self) -> Sequence[Declared]:
        return [group.declared for group in self.reactions.values()]

    def _forget_closed_loops(self) -> None:
        """A session holds its loop, so neither would ever go by itself where nobody called close()."""
        for loop in [loop for loop in list(self._sessions) if loop.is_closed()]:
            self._sessions.pop(loop).abandon()


def _check_same(task: str, known: Callable[..., Any], function: Callable[..., Any]) -> None:
    """Raises ValueError for a second function under a task's name; the same one again is its module, loaded anew."""
    first, second = _place(known), _place(function)
    if known is not function and first != second:
        raise ValueError(
            f'task {task} is defined twice: as {first} and as {second}; give one of them a name: @tail.task(name="…")'
        )


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
