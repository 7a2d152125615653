"""`tailrace cancel`: ask runs to stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from processor.cli.find import find_runs
from processor.cli.opening import opened, wait_for
from processor.cli.output import Output, output_of, status_text
from processor.store.runs import read_state

__all__ = ["cancel"]


def cancel(
    ctx: typer.Context,
    run: Annotated[list[str], typer.Argument(help="IDs, or their beginnings or ends.")],
    reason: Annotated[str, typer.Option(help="Told to the run and kept with it.")] = "",
) -> None:
    """Ask runs to stop."""
    wait_for(_cancel(output_of(ctx), run, reason))


async def _cancel(out: Output, texts: Sequence[str], reason: str) -> None:
    async with opened(out.options) as tail:
        session = await tail.session()
        for run in await find_runs(session, texts):
            asked = await tail.run(run).cancel(reason)
            state = await read_state(session, run)
            status = state.status if state else "cancelled"
            if not out.pretty:
                out.record({"run": run, "asked": asked, "status": status})
            elif asked:
                out.line(f"{run}  asked to stop")
            else:
                out.line(Text.assemble(f"{run}  had ended: ", status_text(status)))
