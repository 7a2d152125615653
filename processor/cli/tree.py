"""A run's children as a tree: of a flow by its plan, also what is not begun yet; of any other run by what its feed tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.text import Text

from processor.cli.output import status_text, table_text
from processor.cli.words import took
from processor.core.errors import BadInput
from processor.core.events import Event, payload_type
from processor.core.plan import FLOW, Plan, PlannedGroup, PlannedStep, child_name, parse_plan
from processor.store.runs import RunState, Space, read_feed, read_states, rfc3339

__all__ = ["Member", "read_tree", "tree_json", "tree_text"]

PAGE: Final = 1000  # events
LOOK_AT: Final = 50_000  # events of children, in all: behind that nobody's children are looked for, and it is said
AT_ONCE: Final = 20  # feeds


@dataclass(slots=True)
class Member:
    """A child, or a join of several."""

    task: str = ""
    run: str = ""
    state: RunState | None = None  # of a child that is there
    join: str = ""  # "chain", "group"
    on_failure: str = ""
    deadline_seconds: float | None = None
    is_told: bool = False  # the parent's feed says that it was begun
    is_open: bool = False  # it may have children that were not looked for
    children: list[Member] = field(default_factory=list)

    @property
    def status(self) -> str:
        """In a word; of a join ""."""
        if self.join:
            return ""
        if self.state is not None:
            return self.state.status
        return "expired" if self.is_told else "not begun"


async def read_tree(space: Space, state: RunState) -> list[Member]:
    """The run's children with theirs. Raises RedisError."""
    looking = _Looking(space)
    top, _ = await looking.members(state, everything=True)
    level = await looking.states_of(top)
    while level:
        found = await asyncio.gather(*(looking.members_of(member) for member in level))
        level = await looking.states_of([member for members in found for member in members])
    return top


class _Looking:
    """One reading of a tree, level by level."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._left = LOOK_AT
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def states_of(self, members: Sequence[Member]) -> list[Member]:
        """Reads how they stand; those that are there."""
        children = [member for one in members for member in _children_in(one)]
        states = await read_states(self._space, [child.run for child in children])
        for child, state in zip(children, states, strict=True):
            child.state = state
        return [child for child in children if child.state is not None]

    async def members_of(self, member: Member) -> list[Member]:
        assert member.state is not None
        async with self._turns:
            member.children, member.is_open = await self.members(member.state)
        return member.children

    async def members(self, state: RunState, *, everything: bool = False) -> tuple[list[Member], bool]:
        """Its children, without their states, and whether there may be more. everything: however long its feed is."""
        told: dict[str, str] = {}
        seq, plan, is_open = 1, None, True
        while everything or self._left > 0:
            events = await read_feed(self._space, state.run, seq, count=PAGE)
            for id, payload in events:
                if id.seq == 1 and state.task == FLOW:
                    plan = _plan_in(Event(state.run, id, payload).data)
                elif payload_type(payload) == "child.started":
                    data = Event[Any](state.run, id, payload).data
                    if isinstance(data, dict) and isinstance(data.get("run"), str):
                        told.setdefault(data["run"], str(data.get("task") or ""))
            self._left -= 0 if everything else len(events)
            if len(events) < PAGE:
                is_open = False
                break
            seq = events[-1][0].seq + 1
        if plan is not None:
            return [_planned(state.run, plan, "0", told)], False
        return [Member(task, run, is_told=True) for run, task in told.items()], is_open


def _children_in(member: Member) -> Iterator[Member]:
    """It, or the children that it joins."""
    if not member.join:
        yield member
        return
    for one in member.children:
        yield from _children_in(one)


def _plan_in(data: Any) -> Plan | None:
    input = data.get("input") if isinstance(data, dict) else None
    try:
        return parse_plan(input.get("plan") if isinstance(input, dict) else None)
    except BadInput:
        return None


def _planned(flow: str, plan: Plan, path: str, told: dict[str, str]) -> Member:
    if isinstance(plan, PlannedStep):
        run = child_name(flow, path, plan)
        return Member(plan.task, run, is_told=run in told)
    is_group = isinstance(plan, PlannedGroup)
    return Member(
        join="group" if is_group else "chain",
        on_failure=plan.on_failure if isinstance(plan, PlannedGroup) else "",
        deadline_seconds=plan.deadline_seconds,
        children=[_planned(flow, node, f"{path}.{n}", told) for n, node in enumerate(plan.nodes)],
    )


# For programs.


def tree_json(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Objects with `children`; absent members left out, times RFC 3339."""
    return [_json(member) for member in members]


def _json(member: Member) -> dict[str, Any]:
    children = tree_json(member.children)
    if member.join:
        found = {
            "join": member.join,
            "on_failure": member.on_failure or None,
            "deadline_seconds": member.deadline_seconds,
            "children": children,
        }
    else:
        found = {"run": member.run, "task": member.task, "status": member.status, **_times(member.state)}
        if children:
            found["children"] = children
    return {name: value for name, value in found.items() if value is not None}


def _times(state: RunState | None) -> dict[str, Any]:
    if state is None:
        return {}
    ended = rfc3339(state.ended) if state.ended is not None else None
    return {"attempt": state.attempt, "created": rfc3339(state.created), "ended": ended, "error": state.error}


# For eyes.


def tree_text(members: Sequence[Member], now_ms: float) -> Text:
    """A table whose first column is the tree. now_ms: of children that go on."""
    rows = list(_rows(members, "", "", now_ms))
    columns = ["CHILD", "STATUS", "ATTEMPT", "TOOK", "RUN", "ERROR"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return table_text(columns, rows)


def _rows(members: Sequence[Member], before: str, below: str, now_ms: float) -> Iterator[list[str | Text]]:
    for number, member in enumerate(members):
        is_last = number == len(members) - 1
        lead = below + ("└─ " if is_last else "├─ ") if before else ""
        yield [Text.assemble((lead, "bright_black"), _name(member)), *_cells(member, now_ms)]
        under = below + ("   " if is_last else "│  ") if before else ""
        yield from _rows(member.children, "·", under, now_ms)
        if member.is_open:
            yield [Text(f"{under}└─ whether it has more was not looked for", "bright_black"), "", "", "", "", ""]


def _name(member: Member) -> Text:
    if not member.join:
        return Text(member.task)
    words = [member.on_failure] if member.on_failure not in ("", "fail") else []
    words += [f"{member.deadline_seconds:g} s"] if member.deadline_seconds is not None else []
    return Text(member.join + (f" ({', '.join(words)})" if words else ""), style="bold")


def _cells(member: Member, now_ms: float) -> list[str | Text]:
    state = member.state
    if member.join:
        return ["", "", "", "", ""]
    if state is None:
        return [Text(member.status, "bright_black"), "", "", member.run, ""]
    seconds = ((state.ended or now_ms) - state.created) / 1000
    error = (state.error or "").partition("\n")[0]
    return [status_text(state.status), str(state.attempt or ""), took(max(0.0, seconds)), state.run, error]
