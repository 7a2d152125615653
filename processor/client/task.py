"""Task: a function whose call is a run."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, cast, overload

from typing_extensions import TypeVar

from processor.client.annotations import Annotations
from processor.client.calling import Middleware, invoke_values
from processor.client.calls import call
from processor.client.depends import is_async
from processor.client.execution import Execution, Job, same_start
from processor.client.inputs import Inputs
from processor.client.queueing import Options, input_hash, start_queued
from processor.client.results import Results
from processor.client.run import Run
from processor.core.backoff import Retry
from processor.core.errors import BadInput, IllegalEvent, NotAwaited, RunClosed
from processor.core.names import check_labels, check_name
from processor.core.rate import Limit, Rate

if TYPE_CHECKING:
    from processor.client.flows import Step
    from processor.client.sync import SyncTask
    from processor.client.tailrace import Tailrace
    from processor.core.schedule import Schedule

__all__ = ["Policy", "Task"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", default=Any)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a task's runs are executed. Raises BadInput for what makes no sense."""

    retry: Retry = field(default_factory=Retry)
    timeout_seconds: float = 600  # of one try
    concurrency: int = 64  # executions at once in one process
    cron: Schedule | None = None  # when it starts by itself, without arguments
    rate: Rate | None = None
    limit: Limit | None = None

    def __post_init__(self) -> None:
        _at_least(self.retry.attempts >= 1, "retry", self.retry.attempts, "It counts all tries: 1 or more.")
        _at_least(self.timeout_seconds > 0, "timeout_seconds", self.timeout_seconds, "Give seconds, more than 0.")
        _at_least(self.concurrency >= 1, "concurrency", self.concurrency, "Give how many run at once, 1 or more.")

    @classmethod
    def of(
        cls,
        *,
        retry: Retry | int,
        timeout_seconds: float,
        concurrency: int,
        cron: str | Schedule | None,
        rate: str | Rate | None,
        limit: int | Limit | None,
    ) -> Policy:
        """Of what the decorator takes: a number of tries, a cron expression in UTC, "60/min", a number at most."""
        if isinstance(cron, str):
            from processor.core.schedule import Schedule

            cron = Schedule(cron)
        retry = retry if isinstance(retry, Retry) else Retry(attempts=retry)
        return cls(retry, timeout_seconds, concurrency, cron, Rate.of(rate), Limit.of(limit))


def _at_least(fits: bool, field: str, value: float, remedy: str) -> None:
    if not fits:
        raise BadInput(f"{field} is {value!r}.", remedy=remedy, field=field, value=str(value))


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
        policy: Policy | None = None,
        frame: FrameType | None = None,
    ) -> None:
        """frame: where the function is defined. Raises BadName, BadInput, TypeError."""
        functools.update_wrapper(self, function)
        policy = policy or Policy()
        self.name = check_name(name, "task")
        self.function = function
        self.is_async = is_async(function)
        annotations = Annotations(function, frame)
        self.inputs, self.results = Inputs(name, function, annotations), Results(name, annotations)
        self.retry, self.timeout_seconds, self.concurrency = policy.retry, policy.timeout_seconds, policy.concurrency
        self.cron, self.rate, self.limit = policy.cron, policy.rate, policy.limit
        self.tail = tail
        self._options = Options()
        self._is_plain: bool | None = None  # async and without dependencies, once its annotations were looked at
        if self.cron is not None:
            self._check_cron()

    def __call__(self, run: Run[Any], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
        """The function, as it was written: for tests and for other tasks."""
        return self.function(run, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def prepare(self) -> None:
        """For a worker's start: what takes time when first needed, and what is wrong with the annotations.

        Raises TypeError, NameError, SettingsError.
        """
        self.inputs.prepare()

    @property
    def middleware(self) -> Sequence[Middleware]:
        """Around each execution, outermost first."""
        return self.tail.middlewares

    @property
    def is_direct(self) -> bool:
        """Whether nothing stands between an execution and its function."""
        if self._is_plain is None:
            self._is_plain = self.is_async and not self.inputs.dependencies
        return self._is_plain and not self.tail.middlewares

    def _check_cron(self) -> None:
        try:
            required = self.inputs.required
        except NameError:  # a type that is defined below: told by each of its runs
            return
        if required:
            raise BadInput(
                f"task {self.name}: its schedule starts it without arguments, and {required[0]} has no default.",
                remedy="Give it one, or let another task with this schedule start it.",
                field="cron",
            )

    @property
    def sync(self) -> SyncTask[P, R]:
        """The same, blocking."""
        from processor.client.sync import SyncTask

        return SyncTask(self, self.tail.portal)

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

    async def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """In a task: a child run now, and wait for its result. Waiting takes no place in the concurrency.

        Its ID is derived from parent, task, input and how many equal calls came before (or options(id=)), so the parent's
        next attempt reuses children that finished and starts failed ones anew, unless no further try can help (GiveUp). A
        cancel of the parent reaches it as well.
        Raises RunFailed and RunCancelled of the child, BadInput, BacklogFull, ServerError; RuntimeError outside of a task.
        """
        return cast("R", await call(self, self._options, args, kwargs))

    @overload
    def bind(self, *args: P.args, **kwargs: P.kwargs) -> Step[R]: ...

    @overload
    def bind(self: Task[Concatenate[Any, Q], R], *args: Q.args, **kwargs: Q.kwargs) -> Step[R]: ...

    def bind(self, *args: Any, **kwargs: Any) -> Step[R]:
        """A step of a flow: for chain, group and chord. Arguments are checked when the flow is started.

        In a chain the first parameter that has neither an argument nor a default is given the result before it.
        """
        from processor.client.flows import Step

        return Step(self, self._options, args, kwargs)

    async def _start(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Run[R]:
        values = self.inputs.bind(args, kwargs)
        run = await start_queued(self.tail, self.name, self.inputs.to_json(values), self._options)
        run._results = self.results
        return cast("Run[R]", run)

    async def _start_here(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Run[R]:
        options = self._options
        if options.delay_seconds:
            raise BadInput("start_here begins at once; delay_seconds needs start and a worker.", field="delay_seconds")
        values = self.inputs.bind(args, kwargs)
        encoded = self.inputs.to_json(values)
        run: Run[R] = Run(self.tail, options.run_id())
        run._results = self.results
        job = Job(
            task=self.name,
            function=functools.partial(invoke_values, self),
            arguments={"values": values},
            input=encoded,
            start=input_hash(self.name, encoded),
            retry=self.retry,
            timeout_seconds=self.timeout_seconds,
        )
        executed: Run[R] = Run(self.tail, run.id)
        execution = Execution(
            await self.tail.session(), executed, job=job, thread=options.thread or "", labels=options.labels
        )
        try:
            await execution.begin()
        except (IllegalEvent, RunClosed):
            await same_start(run, job.start)
        else:
            execution.launch()
        return run
