"""`tailrace show`: where one run stands, and why it waits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from processor.cli.exits import DONE, FAILED
from processor.cli.find import find_run
from processor.cli.opening import reading, wait_for
from processor.cli.output import Output, output_of, status_text
from processor.cli.tree import read_tree, tree_json, tree_text
from processor.cli.view import value_text
from processor.cli.words import clock, in_local_time, took
from processor.core.ago import ago
from processor.core.cursor import FeedId
from processor.core.events import Event
from processor.core.json import dumps
from processor.store.runs import RunState, Space, read_feed, read_state

__all__ = ["show"]

_LABELS = {"references": "given by", "reference": "kept by"}
NEAR = 100  # of a waiting run's last events: its question is among them, mostly the very last


def show(ctx: typer.Context, run: Annotated[str, typer.Argument(help="ID, or its beginning or end.")]) -> None:
    """State of a run, its times, why it waits, its input and result, and its children as a tree."""
    raise typer.Exit(wait_for(_show(output_of(ctx), run)))


async def _show(out: Output, text: str) -> int:
    async with reading(out.options) as space:
        run = await find_run(space, text)
        state = await read_state(space, run)
        assert state is not None  # find_run has just seen it
        values = await _values(space, state)
        tree = await read_tree(space, state)
        question = await _question(space, state) if out.pretty else ""
    if out.pretty:
        _describe(out, state, question, values)
        if tree:
            out.line()
            out.line(tree_text(tree, datetime.now(UTC).timestamp() * 1000))
    else:
        out.record(dumps(state.json() | values | ({"children": tree_json(tree)} if tree else {})))
    return FAILED if state.status in ("failed", "cancelled") else DONE


async def _values(space: Space, state: RunState) -> dict[str, Any]:
    """`input` and, of a run that succeeded, `result`, as far as its first and its last event have them; and what stands in
    their place where they are results of other runs."""
    values: dict[str, Any] = {}
    places = {1: ("input", "references")}
    if state.status == "succeeded" and state.tail:
        places[FeedId.parse(state.tail).seq] = ("result", "reference")
    for seq, names in places.items():
        for id, payload in await read_feed(space, state.run, seq, last=seq, count=1):
            data = Event[Any](state.run, id, payload).data
            if isinstance(data, dict):
                values |= {name: data[name] for name in names if name in data}
    return values


async def _question(space: Space, state: RunState) -> str:
    """What it waits for an answer to; nothing where that is too far back in its feed."""
    if not state.ask or state.status != "waiting":
        return ""
    tail = int((state.tail or "0-0").partition("-")[0])
    for id, payload in reversed(await read_feed(space, state.run, max(1, tail - NEAR + 1), last=tail, count=NEAR)):
        event = Event[Any](state.run, id, payload)
        if event.type == "run.waiting" and isinstance(event.data, dict) and event.data.get("ask") == state.ask:
            return str(event.data.get("question") or "")
    return ""


def _describe(out: Output, state: RunState, question: str, values: Mapping[str, Any]) -> None:
    now = datetime.now(UTC)
    age = ago(now.timestamp() - (state.ended or state.updated or state.created) / 1000)
    head = Text.assemble((state.run, "bold"), "  ", status_text(state.status))
    head.append(
        f" {age} ago" if state.terminal else f", last event {age} ago" if state.status == "running" else f" {age}"
    )
    if state.waiting_for:
        head.append(f"  waits for {in_local_time(state.waiting_for, now)}")
    out.line(head)
    if state.status == "queued" and state.waiting_for and state.waiting_for.startswith("a worker"):
        out.line(f"  Start one: `tailrace worker MODULE:TAIL`.   To need none: `{state.task}.start_here(...)`")
    if state.ask and state.status == "waiting":
        out.line(
            Text(f"  {question}", style="magenta") if question else f"  `tailrace tail {state.run}` shows the question."
        )
        out.line(f"  Answer: `tailrace answer {state.run} VALUE`, run.answer(...), or in the console")
    ended = clock(datetime.fromtimestamp(state.ended / 1000, UTC), now) if state.ended else ""
    lines = {
        "task": state.task or "",
        "thread": state.thread or "",
        "attempt": str(state.attempt or ""),
        "labels": " ".join(f"{name}={value}" for name, value in state.labels.items()),
        "created": clock(datetime.fromtimestamp(state.created / 1000, UTC), now),
        "ended": f"{ended} (after {took((state.ended - state.created) / 1000)})" if state.ended else "",
        "tail": state.tail or "",
        "asked": state.ask or "",
        "cancel": f"asked for: {state.cancel or 'no reason given'}" if state.cancel is not None else "",
        "error": state.error or "",
        **{_LABELS.get(name, name): value_text(value) for name, value in values.items()},
    }
    for name, value in lines.items():
        if value:
            out.line(Text.assemble((f"  {name:<9}", "bright_black"), value))
