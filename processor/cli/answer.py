"""`tailrace answer`: reply to what a run asks."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from processor.cli.find import find_run
from processor.cli.opening import opened, wait_for
from processor.cli.output import Output, output_of
from processor.cli.words import parse_json
from processor.core.ago import ago
from processor.core.errors import BadInput, IllegalEvent, RunClosed
from processor.core.json import dumps
from processor.store.runs import RunState, read_state

__all__ = ["answer"]


def answer(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="ID, or its beginning or end.")],
    value: Annotated[str, typer.Argument(help="""JSON: true, 42, '{"go": true}'; anything else is text.""")],
    ask: Annotated[str | None, typer.Option(help="Only if it is this ask that is open.")] = None,
) -> None:
    """Reply to what a run asks."""
    wait_for(_answer(output_of(ctx), run, _value_of(value), ask))


def _value_of(text: str) -> object:
    """JSON, or the text itself where it is none."""
    try:
        return parse_json(text, field="value")
    except BadInput:
        return text


async def _answer(out: Output, text: str, value: object, ask: str | None) -> None:
    async with opened(out.options) as tail:
        session = await tail.session()
        run = await find_run(session, text)
        state = await read_state(session, run)
        assert state is not None  # find_run has just seen it
        ask = _open_ask(state, ask)
        await tail.run(run).answer(value, ask=ask)
    if out.pretty:
        out.line(f"{run}  answered: {dumps(value).decode()}")
    else:
        out.record(dumps({"run": run, "ask": ask, "value": value}))


def _open_ask(state: RunState, wanted: str | None) -> str:
    """The ask that is open. Raises RunClosed, or IllegalEvent if there is none, or another one than wanted."""
    if state.terminal:
        since = f" {ago(time.time() - state.ended / 1000)} ago" if state.ended else ""
        raise RunClosed(
            f"run {state.run} ended as {state.status}{since}: it takes no answer any more.",
            remedy=f"How it ended: `tailrace show {state.run}`.",
            run=state.run,
            status=state.status,
            tail=state.tail or "",
        )
    if state.ask is None:
        message = f"run {state.run} asks nothing: it is {state.status}."
        remedy = f"Where it stands: `tailrace show {state.run}`."
    elif wanted is not None and wanted != state.ask:
        message = f'run {state.run} waits for an answer to ask "{state.ask}", not to "{wanted}".'
        remedy = f"The question: `tailrace show {state.run}`."
    else:
        return state.ask
    raise IllegalEvent(message, remedy=remedy, run=state.run, status=state.status, type="run.resumed")
