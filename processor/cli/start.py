"""`tailrace start`: queue a run of a task, whose code this process need not have."""

from __future__ import annotations

from datetime import UTC, datetime
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from processor.cli.exits import DONE, Usage
from processor.cli.opening import opened, wait_for
from processor.cli.output import Output, output_of
from processor.cli.tail import Viewing, follow_runs
from processor.cli.words import in_local_time, parse_duration, parse_json, parse_labels
from processor.core.json import dumps
from processor.core.names import check_name
from processor.core.worker import Workers
from processor.store.workers import list_workers

if TYPE_CHECKING:
    from processor.client.queueing import Options as StartOptions

__all__ = ["start"]

BY_NAME = """Give parameters by name, quoted for the shell: '{"prompt": "why?"}'"""


def start(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="The task's name.")],
    input: Annotated[str, typer.Argument(help="""Its parameters by name: '{"prompt": "why?"}'""")] = "{}",
    id: Annotated[str | None, typer.Option("--id", help="The run's ID; the same again returns the first run.")] = None,
    thread: Annotated[str | None, typer.Option(help="Its conversation: at most one active run each.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    delay: Annotated[str | None, typer.Option(help="Not before: 30s, 5m, 2h.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay, and show its events to the end.")] = False,
) -> None:
    """Queue a run for a worker."""
    from processor.client.queueing import Options

    check_name(task, "task")
    given = parse_json(input, field="input", remedy=BY_NAME)
    if not isinstance(given, dict):
        raise Usage(f"input is {input[:100]}, which is no object.", remedy=BY_NAME, field="input", value=input[:200])
    seconds = parse_duration(delay, field="--delay") if delay else 0.0
    options = Options(id=id, thread=thread, labels=parse_labels(label or []), delay_seconds=seconds)
    raise typer.Exit(wait_for(_start(output_of(ctx), task, dumps(given), options, follow)))


async def _start(out: Output, task: str, input: bytes, options: StartOptions, follow: bool) -> int:
    from processor.client.queueing import start_queued

    async with opened(out.options) as tail:
        run = await start_queued(tail, task, input, options)
        state = await run.state()
        if not follow and not out.pretty:
            out.record(state.json())
        elif not follow:
            out.line(run.id)
        if state.waiting_for:
            why = in_local_time(state.waiting_for, datetime.now(UTC))
            out.say(f"{run.id}  {state.status}, waits for {why}")
            if near := _perhaps(task, await list_workers(await tail.session())):
                out.say(f"  Perhaps {near} was meant; `tailrace cancel {run.id}` takes this one back.")
        return await follow_runs(out, tail, [run.id], Viewing()) if follow else DONE


def _perhaps(task: str, workers: Workers) -> str | None:
    """A task that looks alike, if a worker has that one and none this one."""
    if workers.that_have(task):
        return None
    having = {name for worker in workers.alive for name in worker.tasks}
    return next(iter(get_close_matches(task, having, n=1)), None)
