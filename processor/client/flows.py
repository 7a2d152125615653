"""Flows: runs made of other runs. `chain` is one after the other, `group` all at once, `chord` a group and what gets its list.

They are values until they are started; then the flow is a run like any other, of the built-in task that `joining.py` has.
"""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, overload

from typing_extensions import TypeVar

from processor.client.calls import check_child
from processor.client.joining import flow_task
from processor.client.queueing import Options
from processor.client.results import Results
from processor.client.task import Starting
from processor.core.errors import BadInput
from processor.core.json import loads
from processor.core.names import check_run
from processor.core.plan import (
    OnFailure,
    Plan,
    PlannedChain,
    PlannedGroup,
    PlannedStep,
    check_deadline,
    check_nodes,
    check_policy,
    steps_of,
)
from processor.core.references import ChildFailed

if TYPE_CHECKING:
    from processor.client.run import Run
    from processor.client.sync import SyncFlow
    from processor.client.tailrace import Tailrace
    from processor.client.task import Task

__all__ = ["Flow", "Node", "Step", "chain", "chord", "group", "previous"]

R = TypeVar("R", default=Any)
T = TypeVar("T", default=Any)
C = TypeVar("C", default=Any, covariant=True)  # so that a group may be of different tasks


class _Previous:
    """Stands for the result of what comes before."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "previous"


previous: Final[Any] = _Previous()
"""As an argument of bind: the result of the step before, where the first free parameter is not meant."""


class Node(ABC, Generic[C]):
    """A part of a flow: a step, or a flow in a flow."""

    @abstractmethod
    def _planned(self, follows: bool) -> Plan:
        """follows: whether a result comes before it. Raises BadInput, BadName, BadEvent."""

    def _takes_previous(self, plan: Plan) -> bool:
        first = plan
        while isinstance(first, PlannedChain):
            first = first.nodes[0]
        return any(step.previous for _, step in steps_of(first))

    @property
    @abstractmethod
    def _tails(self) -> Iterable[Tailrace]:
        """Of its steps."""

    @abstractmethod
    def _typed(self, value: Any, run: str) -> Any:
        """A result as JSON has it, as its tasks return it. Raises BadInput."""


class Step(Node[C]):
    """A task with arguments: `task.bind(…)`. Nothing happens until its flow is started."""

    def __init__(
        self, task: Task[..., C], options: Options, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> None:
        self.task = task
        self._options, self._args, self._kwargs = options, args, kwargs

    def __repr__(self) -> str:
        return f"<Step {self.task.name}>"

    @property
    def _tails(self) -> Iterable[Tailrace]:
        yield self.task.tail

    def _planned(self, follows: bool) -> Plan:
        task, options = self.task, self._options
        check_child(options)
        _check_known(task)
        if options.id is not None:
            check_run(f"flow~{options.id}", field="id")
        values, marked, missing = task.inputs.bind_some(self._args, self._kwargs, previous)
        taking = marked or (missing[:1] if follows else [])
        if marked and not follows:
            raise BadInput(
                f"task {task.name}: {marked[0]} is the previous result, and nothing comes before this step.",
                remedy="Put a step before it, or give an argument.",
                field=f"input.{marked[0]}",
            )
        if left := [name for name in missing if name not in taking]:
            before = " (the previous result is given to " + " and ".join(taking) + ")" if taking else ""
            raise BadInput(
                f"task {task.name}: {left[0]} is missing{before}.",
                remedy=f"Give it to {task.name}.bind(…).",
                field=f"input.{left[0]}",
            )
        input = loads(task.inputs.to_json(values))
        return PlannedStep(task.name, input, tuple(taking), options.id, options.labels)

    def _typed(self, value: Any, run: str) -> Any:
        return self.task.results.parse(value, run)


def _check_known(task: Task[..., Any]) -> None:
    if task.tail.tasks.get(task.name) is None:
        known = ", ".join(sorted(task.tail.tasks)) or "none"
        raise BadInput(
            f"task {task.name} is none of this process's: its Tailrace has {known}.",
            remedy="Make it by @tail.task.",
            field="task",
            value=task.name,
        )


class Flow(Node[C]):
    """What `chain`, `group` and `chord` make. As a run its result is the flow's."""

    def __init__(
        self,
        kind: Literal["chain", "group"],
        nodes: Sequence[Node[Any]],
        *,
        on_failure: OnFailure = "fail",
        deadline_seconds: float | None = None,
        body_takes_list: bool = False,
    ) -> None:
        """Raises BadInput."""
        for node in check_nodes(kind, nodes, kind):
            _check_node(node, kind)
        self._kind, self._nodes = kind, tuple(nodes)
        self._on_failure = check_policy(on_failure)
        self._deadline = check_deadline(deadline_seconds)
        self._body_takes_list = body_takes_list
        self._options = Options()

    def __repr__(self) -> str:
        return f"<Flow {self._kind} of {len(self._nodes)}>"

    def options(
        self,
        *,
        id: str | None = None,
        thread: str | None = None,
        labels: Mapping[str, str] | None = None,
        delay_seconds: float = 0,
    ) -> Flow[C]:
        """The same flow for one start, as `Task.options`."""
        twin: Flow[C] = object.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)
        twin._options = Options(id=id, thread=thread, labels=labels, delay_seconds=delay_seconds)
        return twin

    def start(self) -> Coroutine[Any, Any, Run[C]]:
        """Queue it; awaited, it returns when Redis has it. Raises as `Task.start`; BadInput for what does not fit."""
        return Starting(self._start(), "flow.start")

    def start_here(self) -> Coroutine[Any, Any, Run[C]]:
        """Join its steps in this process; workers execute them. Raises as `Task.start_here`."""
        return Starting(self._start_here(), "flow.start_here")

    async def call(self) -> C:
        """In a task: the flow as a child, and its result. Raises as `Task.call`."""
        task, plan = self._task_and_plan()
        return await task.call(plan)

    @property
    def sync(self) -> SyncFlow[C]:
        """The same, blocking."""
        from processor.client.sync import SyncFlow

        return SyncFlow(self, self._tail.portal)

    async def _start(self) -> Run[C]:
        task, plan = self._task_and_plan()
        return await task.start(plan)

    async def _start_here(self) -> Run[C]:
        task, plan = self._task_and_plan()
        return await task.start_here(plan)

    def _task_and_plan(self) -> tuple[Task[[dict[str, Any]], C], dict[str, Any]]:
        options = self._options
        task = flow_task(self._tail).options(
            id=options.id, thread=options.thread, labels=options.labels, delay_seconds=options.delay_seconds
        )
        task.results = _FlowResults(self)
        return task, self._planned(follows=False).json()

    @property
    def _tail(self) -> Tailrace:
        """Raises BadInput where tasks are of several."""
        tails = list(self._tails)
        if any(tail is not tails[0] for tail in tails):
            raise BadInput(
                "the steps of a flow are tasks of several Tailrace objects; its children are started by one.",
                remedy="Make all of them by the same @tail.task.",
                field="task",
            )
        return tails[0]

    @property
    def _tails(self) -> Iterable[Tailrace]:
        for node in self._nodes:
            yield from node._tails

    def _planned(self, follows: bool) -> Plan:
        if self._kind == "group":
            return PlannedGroup(tuple(n._planned(follows) for n in self._nodes), self._on_failure, self._deadline)
        nodes = tuple(node._planned(follows or number > 0) for number, node in enumerate(self._nodes))
        if self._body_takes_list and not self._takes_previous(nodes[-1]):
            raise BadInput(
                f"the body of a chord gets the list of results, and {self._nodes[-1]!r} takes none.",
                remedy="Leave a parameter free, or use chain(group(…), …).",
                field="body",
            )
        return PlannedChain(nodes, self._deadline)

    def _typed(self, value: Any, run: str) -> Any:
        if self._kind == "chain":
            return self._nodes[-1]._typed(value, run)
        if not isinstance(value, list):
            return value
        nodes = self._nodes
        if len(nodes) != len(value):  # some were left out, and which ones is not said
            tasks = {node.task.name if isinstance(node, Step) else "" for node in nodes}
            if len(tasks) > 1 or "" in tasks:
                return value
        return [self._typed_member(node, one, run) for node, one in zip(nodes, value, strict=False)]

    def _typed_member(self, node: Node[Any], value: Any, run: str) -> Any:
        if self._on_failure == "continue" and isinstance(value, dict) and value.keys() == _FAILED:
            return ChildFailed(**value)
        return node._typed(value, run)


_FAILED: Final = {"child", "reason", "error"}


def _check_node(node: object, kind: str) -> None:
    if isinstance(node, Flow) and node._options != Options():
        raise BadInput(
            f"a {kind} of a flow with options: inside another flow it is no run of its own, and has neither id nor labels.",
            remedy="Give options to the whole, or to a step: task.options(…).bind(…).",
            field=kind,
        )
    if not isinstance(node, Node):
        said = f"{builtins.type(node).__name__}" if not callable(node) else repr(node)
        raise BadInput(
            f"a {kind} of {said}: it is made of task.bind(…), chain, group and chord.",
            remedy="Write task.bind(…) without calling the task.",
            field=kind,
        )


class _FlowResults(Results):
    """Of a flow: each task's part has the type that it returns."""

    def __init__(self, flow: Flow[Any]) -> None:
        self._flow = flow

    def parse(self, value: object, run: str) -> Any:
        return self._flow._typed(value, run)


@overload
def chain(last: Node[R], /, *, deadline_seconds: float | None = None) -> Flow[R]: ...
@overload
def chain(a: Node[Any], last: Node[R], /, *, deadline_seconds: float | None = None) -> Flow[R]: ...
@overload
def chain(a: Node[Any], b: Node[Any], last: Node[R], /, *, deadline_seconds: float | None = None) -> Flow[R]: ...
@overload
def chain(
    a: Node[Any], b: Node[Any], c: Node[Any], last: Node[R], /, *, deadline_seconds: float | None = None
) -> Flow[R]: ...
@overload
def chain(
    a: Node[Any], b: Node[Any], c: Node[Any], d: Node[Any], last: Node[R], /, *, deadline_seconds: float | None = None
) -> Flow[R]: ...
@overload
def chain(*nodes: Node[Any], deadline_seconds: float | None = None) -> Flow[Any]: ...


def chain(*nodes: Node[Any], deadline_seconds: float | None = None) -> Flow[Any]:
    """One after the other: each gets the result before it as its first argument that `bind` left open and that has no
    default; one that leaves none open gets none. Its result is the last one's. One that fails ends it.

    deadline_seconds: from its first beginning; what is not done by then is cancelled and counts as failed. Raises BadInput.
    """
    return Flow("chain", nodes, deadline_seconds=deadline_seconds)


@overload
def group(
    *nodes: Node[T], on_failure: Literal["fail", "ignore"] = "fail", deadline_seconds: float | None = None
) -> Flow[list[T]]: ...
@overload
def group(
    *nodes: Node[T], on_failure: Literal["continue"], deadline_seconds: float | None = None
) -> Flow[list[T | ChildFailed]]: ...


def group(*nodes: Node[Any], on_failure: OnFailure = "fail", deadline_seconds: float | None = None) -> Flow[list[Any]]:
    """All at once; its result is the list of theirs, in their order. In a chain each of them gets the result before it.

    on_failure: "fail" cancels the others and fails, naming the child; "continue" puts a ChildFailed in its place; "ignore"
    leaves it out. deadline_seconds: from its first beginning; what is not done by then is cancelled and counts as failed.
    Raises BadInput for none and for more than 1,000.
    """
    return Flow("group", nodes, on_failure=on_failure, deadline_seconds=deadline_seconds)


def chord(
    header: Iterable[Node[Any]] | Flow[Any],
    body: Node[R],
    *,
    on_failure: OnFailure = "fail",
    deadline_seconds: float | None = None,
) -> Flow[R]:
    """A group, and a body that gets the list of its results. header: a group, or what would be in one.

    on_failure: of the group, where header is none. deadline_seconds: of both. Raises BadInput.
    """
    if isinstance(header, Flow):
        if on_failure != "fail":
            raise BadInput(
                "on_failure of a chord is that of its group.",
                remedy="Write it there: chord(group(…, on_failure=…), body).",
                field="on_failure",
            )
        first: Flow[Any] = header
    else:
        first = Flow("group", list(header), on_failure=on_failure)
    return Flow("chain", (first, body), deadline_seconds=deadline_seconds, body_takes_list=True)
