"""Task: a function whose call is a run."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, cast

from typing_extensions import TypeVar

from processor.client.execution import Execution, Job, in_thread, same_start
from processor.client.inputs import Inputs
from processor.client.run import Run
from processor.core.backoff import Retry
from processor.core.errors import BadInput, IllegalEvent, NotAwaited, RunClosed
from processor.core.events import draft
from processor.core.json import dumps, loads
from processor.core.names import check_labels, check_name, check_run
from processor.core.start import start_hash
from processor.core.ulid import ulid

if TYPE_CHECKING:
    from processor.client.sync import SyncTask
    from processor.client.tailrace import Tailrace

__all__ = ["Task"]

P = ParamSpec("P")
R = TypeVar("R", default=Any)


@dataclass(frozen=True, slots=True)
class Options:
    """How one start differs from another."""

    id: str | None = None
    thread: str | None = None
    labels: Mapping[str, str] | None = None
    delay_seconds: float = 0

    def run_id(self) -> str:
        """Raises BadName, BadInput."""
        if self.thread is None:
            return check_run(self.id) if self.id is not None else ulid()
        check_name(self.thread, "thread")
        return check_run(f"{self.thread}~{self.id if self.id is not None else ulid()}")

    @property
    def delay_ms(self) -> int:
        if not 0 <= self.delay_seconds <= 366 * 86_400:
            raise BadInput(
                f"delay_seconds is {self.delay_seconds!r}; give 0 or more, a year at most.",
                field="delay_seconds",
                value=str(self.delay_seconds),
            )
        return int(self.delay_seconds * 1000)


class Starting(Coroutine[Any, Any, R]):
    """What start(...) returns: awaited it is the run; touched before, it says what is missing."""

    def __init__(self, coroutine: Coroutine[Any, Any, R], call: str, depth: int = 2) -> None:
        frame = sys._getframe(depth)
        self._coroutine, self._call = coroutine, call
        self._file, self._line = frame.f_code.co_filename, frame.f_lineno
        self._begun = False
        self.__name__ = self.__qualname__ = call

    def __await__(self) -> Generator[Any, None, R]:
        self._begun = True
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        self._begun = True
        return self._coroutine.send(value)

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> Any:
        return self._coroutine.throw(value if isinstance(value, BaseException) else kind)

    def close(self) -> None:
        self._begun = True
        self._coroutine.close()

    def _missing(self) -> NotAwaited:
        return NotAwaited(
            f"{self._call}(...) at {self._file.rpartition('/')[2]}:{self._line} was not awaited: there is no run and no ID.",
            remedy=f"In `async def`: run = await {self._call}(...)     "
            f"In `def`: run = {self._call.replace('.start', '.sync.start')}(...)"
            "     (write, log, emit and set need no await.)",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cr_", "gi_")):  # asyncio asks a coroutine for these, to show what a task does
            return getattr(self._coroutine, name)
        if name.startswith("_"):
            raise AttributeError(name)
        self.close()
        raise self._missing()

    def __del__(self) -> None:
        if not self._begun:
            self._coroutine.close()
            warnings.warn_explicit(str(self._missing()), RuntimeWarning, self._file, self._line)


class Task(Generic[P, R]):
    """Made by `@tail.task`. Calling it directly calls the function itself."""

    def __init__(
        self,
        tail: Tailrace,
        function: Callable[Concatenate[Run[Any], P], Awaitable[R]],
        *,
        name: str,
        retry: Retry,
        timeout_seconds: float,
        options: Options | None = None,
    ) -> None:
        self.name = check_name(name, "task")
        self.function = function
        self.retry = retry
        self.timeout_seconds = timeout_seconds
        self.inputs = Inputs(name, function)
        self._tail = tail
        self._options = options or Options()
        functools.update_wrapper(self, function)

    def __call__(self, run: Run[Any], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """The function, as it was written: for tests and for other tasks."""
        return self.function(run, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same, blocking."""
        from processor.client.sync import SyncTask

        return SyncTask(self, self._tail.portal)

    def options(
        self,
        *,
        id: str | None = None,
        thread: str | None = None,
        labels: Mapping[str, str] | None = None,
        delay_seconds: float = 0,
    ) -> Task[P, R]:
        """Same task for one start. A second start with the same id and input returns the first run, with other input RunExists."""
        twin: Task[P, R] = object.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)
        twin._options = replace(
            self._options, id=id, thread=thread, labels=check_labels(labels or {}), delay_seconds=delay_seconds
        )
        return twin

    def start(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Run[R]]:
        """Queue a run for a worker; awaited, it returns when Redis has it.

        Raises BadInput, BadName, RunExists, ThreadBusy, BacklogFull, ServerError.
        """
        return Starting(self._start(args, kwargs), f"{self.name}.start")

    def start_here(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Run[R]]:
        """Run it in this process, independent of the caller; returns when Redis has its beginning.

        If the process dies the run fails within 35 s (a gateway or worker must run), never hangs. Raises as start.
        """
        return Starting(self._start_here(args, kwargs), f"{self.name}.start_here")

    async def _start(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Run[R]:
        values = self.inputs.bind(args, kwargs)
        run = await start_queued(self._tail, self.name, self.inputs.to_json(values), self._options)
        return cast("Run[R]", run)

    async def _start_here(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Run[R]:
        options = self._options
        if options.delay_seconds:
            raise BadInput("start_here begins at once; delay_seconds needs start and a worker.", field="delay_seconds")
        values = self.inputs.bind(args, kwargs)
        encoded = self.inputs.to_json(values)
        run: Run[R] = Run(self._tail, options.run_id())
        job = Job(
            task=self.name,
            function=in_thread(self.function),
            arguments=values,
            input=encoded,
            start=_hash(self.name, encoded),
            retry=self.retry,
            timeout_seconds=self.timeout_seconds,
        )
        executed: Run[R] = Run(self._tail, run.id)
        execution = Execution(
            await self._tail.session(), executed, job=job, thread=options.thread or "", labels=options.labels
        )
        try:
            await execution.begin()
        except (IllegalEvent, RunClosed):
            await same_start(run, job.start)
        else:
            execution.launch()
        return run


async def start_queued(tail: Tailrace, task: str, input: bytes, options: Options) -> Run[Any]:
    """Appends run.queued. input: JSON."""
    await tail.session()
    run: Run[Any] = Run(tail, options.run_id())
    data = b'{"task":%b,"input":%b}' % (dumps(task), input)
    queued = draft(
        "run.queued",
        data,
        task=check_name(task, "task"),
        start=_hash(task, input),
        thread=options.thread or "",
        labels=options.labels,
        delay_ms=options.delay_ms,
    )
    await run._writer_of(queued).put_or_withdraw(queued)
    return run


def _hash(task: str, input: bytes) -> str:
    return start_hash(task, json_as_python(input))


def json_as_python(data: bytes) -> object:
    """As `json` reads it, so that library and gateway hash alike."""
    import json

    try:
        return json.loads(data)
    except ValueError:
        return loads(data)
