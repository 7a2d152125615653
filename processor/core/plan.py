"""Plans: what a flow does, as its run carries it and as whoever executes or shows it reads it.

JSON: a step is `{"task","input","previous"?,"id"?,"labels"?}`; `{"chain": [nodes], "deadline_seconds"?}` is one after the
other; `{"group": [nodes], "on_failure"?, "deadline_seconds"?}` is all at once. `previous` names the parameters that are given
the result before the step. A node's path is its place, "0" for the whole and "0.2" for the third node in it: a child's name
is made of it, so that every attempt of the flow means the same child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from processor.core.errors import BadInput
from processor.core.names import check_labels, check_name, check_run

__all__ = [
    "FLOW",
    "MAX_CHILDREN",
    "OnFailure",
    "Plan",
    "PlannedChain",
    "PlannedGroup",
    "PlannedStep",
    "child_name",
    "parse_plan",
    "steps_of",
]

FLOW: Final = "tailrace.flow"  # the task that executes flows; every worker has it
MAX_CHILDREN: Final = 1000  # at once, of one join
OnFailure = Literal["fail", "continue", "ignore"]
_DEPTH: Final = 50


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One child."""

    task: str
    input: Mapping[str, Any]
    previous: tuple[str, ...] = ()  # parameters
    id: str | None = None  # its name beside the flow, instead of one made of its path
    labels: Mapping[str, str] | None = None

    def json(self) -> dict[str, Any]:
        members: dict[str, Any] = {"task": self.task, "input": self.input}
        if self.previous:
            members["previous"] = list(self.previous)
        if self.id is not None:
            members["id"] = self.id
        if self.labels:
            members["labels"] = dict(self.labels)
        return members


@dataclass(frozen=True, slots=True)
class PlannedChain:
    """One after the other; its result is the last one's."""

    nodes: tuple[Plan, ...]
    deadline_seconds: float | None = None

    def json(self) -> dict[str, Any]:
        return {"chain": [node.json() for node in self.nodes], **_deadline(self.deadline_seconds)}


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """All at once; its result is the list of theirs."""

    nodes: tuple[Plan, ...]
    on_failure: OnFailure = "fail"
    deadline_seconds: float | None = None

    def json(self) -> dict[str, Any]:
        policy = {"on_failure": self.on_failure} if self.on_failure != "fail" else {}
        return {"group": [node.json() for node in self.nodes], **policy, **_deadline(self.deadline_seconds)}


Plan = PlannedStep | PlannedChain | PlannedGroup


def _deadline(seconds: float | None) -> dict[str, float]:
    return {"deadline_seconds": seconds} if seconds is not None else {}


def steps_of(plan: Plan, path: str = "0") -> Iterator[tuple[str, PlannedStep]]:
    """Each step with its path."""
    if isinstance(plan, PlannedStep):
        yield path, plan
        return
    for number, node in enumerate(plan.nodes):
        yield from steps_of(node, f"{path}.{number}")


def child_name(flow: str, path: str, step: PlannedStep) -> str:
    """The run of a step. flow: its flow's run."""
    root = flow.partition("~")[0]
    if step.id is not None:
        return f"{root}~{step.id}"
    return f"{root}~{hashlib.sha256(f'{flow} flow {path}'.encode()).hexdigest()[:16]}"


def parse_plan(value: object, field: str = "input.plan", depth: int = 0) -> Plan:
    """A plan that came as JSON, from anybody. field: where it stood. Raises BadInput."""
    if not isinstance(value, dict):
        raise _bad(field, "no object")
    if depth > _DEPTH:
        raise _bad(field, f"nested deeper than {_DEPTH}")
    for kind in ("chain", "group"):
        if kind in value:
            nodes = tuple(
                parse_plan(node, f"{field}.{kind}[{number}]", depth + 1)
                for number, node in enumerate(check_nodes(kind, value[kind], field))
            )
            seconds = check_deadline(value.get("deadline_seconds"), f"{field}.deadline_seconds")
            if kind == "chain":
                return PlannedChain(nodes, seconds)
            policy = check_policy(value.get("on_failure", "fail"), f"{field}.on_failure")
            return PlannedGroup(nodes, policy, seconds)
    return _parse_step(value, field)


def _parse_step(value: Mapping[str, Any], field: str) -> PlannedStep:
    input, previous, labels, id = (value.get(name) for name in ("input", "previous", "labels", "id"))
    if not isinstance(input, dict | None):
        raise _bad(f"{field}.input", "no object with a member for each parameter")
    if not isinstance(previous, list | None) or not all(isinstance(name, str) for name in previous or ()):
        raise _bad(f"{field}.previous", "no list of parameters")
    if not isinstance(labels, dict | None):
        raise _bad(f"{field}.labels", "no object of strings")
    return PlannedStep(
        check_name(value.get("task", ""), "task", field=f"{field}.task"),
        input or {},
        tuple(previous or ()),
        check_run(f"flow~{id}", field=f"{field}.id").partition("~")[2] if id is not None else None,
        check_labels(labels, field=f"{field}.labels") if labels else None,
    )


def check_nodes(kind: str, nodes: object, field: str) -> Sequence[Any]:
    """Raises BadInput where there are none, or too many at once."""
    if not isinstance(nodes, list | tuple):
        raise _bad(f"{field}.{kind}", "no list")
    if not nodes:
        raise BadInput(f"a {kind} of nothing: it has no step.", remedy="Give it one or more.", field=field)
    if len(nodes) > MAX_CHILDREN:
        raise BadInput(
            f"a {kind} of {len(nodes):,} steps; at most {MAX_CHILDREN:,} are allowed.",
            remedy="Let each step do several, or group groups.",
            field=field,
            value=str(len(nodes)),
        )
    return nodes


def check_policy(value: object, field: str = "on_failure") -> OnFailure:
    """Raises BadInput."""
    if value not in get_args(OnFailure):
        raise BadInput(
            f"{field} is {value!r}.", remedy='Give "fail", "continue" or "ignore".', field=field, value=str(value)
        )
    return cast("OnFailure", value)


def check_deadline(value: object, field: str = "deadline_seconds") -> float | None:
    """Raises BadInput."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= 366 * 86_400:
        raise BadInput(
            f"{field} is {value!r}; give seconds, more than 0, a year at most.", field=field, value=str(value)
        )
    return value


def _bad(field: str, what: str) -> BadInput:
    return BadInput(
        f"{field} is {what}.", remedy='Make plans by chain, group and chord of "from tailrace import …".', field=field
    )
