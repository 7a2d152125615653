"""`tailrace emit`: events from the shell, one or a stream of them."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from processor.cli.exits import Usage
from processor.cli.opening import opened, wait_for
from processor.cli.output import Output, output_of
from processor.cli.words import parse_labels
from processor.core.errors import BadInput
from processor.core.events import Draft
from processor.core.json import dumps
from processor.core.names import check_run, check_type

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["emit"]

READ_BYTES = 65536
MAX_EVENTS = 256  # of one call


def emit(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's ID; a new one begins with its first event.")],
    type: Annotated[
        str, typer.Argument(help="order.paid, message.delta, … or - for one event object a line on stdin.")
    ],
    data: Annotated[str, typer.Argument(help="""Any JSON: '{"cents": 500}'; - for one a line on stdin.""")] = "null",
    label: Annotated[list[str] | None, typer.Option(help="name=value, of each event; may be repeated.")] = None,
) -> None:
    """Add events to a run."""
    check_run(run)
    out = output_of(ctx)
    labels = dumps(dict(parse_labels(label or []))) if label else b""
    if type == "-":
        if label or data != "null":
            remedy = 'Each line is an event: {"type": …, "data": …, "labels": …}.'
            raise Usage("with - the events bring their own data and labels.", remedy=remedy)
        prefix, suffix = b"", b""
    else:
        check_type(type)
        prefix = b'{"type":%b,%b"data":' % (dumps(type), b'"labels":%b,' % labels if labels else b"")
        suffix = b"}"
    lines = [data.encode("utf-8", "surrogateescape")] if "-" not in (type, data) else None
    raise typer.Exit(wait_for(_emit(out, run, lines, prefix, suffix)))


async def _emit(out: Output, run: str, lines: Sequence[bytes] | None, prefix: bytes, suffix: bytes) -> int:
    """lines: what was given, None for stdin. An event is prefix, line and suffix."""
    async with opened(out.options) as tail:
        if lines is not None:
            await _append(out, tail, run, _drafts(tail, lines, prefix, suffix, first=None))
            return 0
        first = 1
        async for batch in _batches():
            await _append(out, tail, run, _drafts(tail, batch, prefix, suffix, first=first))
            first += len(batch)
    return 0


def _drafts(tail: Tailrace, lines: Sequence[bytes], prefix: bytes, suffix: bytes, *, first: int | None) -> list[Draft]:
    """One draft a line that is not blank, its data as it came. first: number of the first line, None for an argument.

    Raises BadInput with the gateway's words for the same fault.
    """
    from gateway.core.ingest import Media, read_events
    from gateway.core.problems import Problem

    drafts = []
    for number, line in enumerate(lines, first or 0):
        if not line.strip():
            continue
        body = prefix + line.rstrip(b"\r\n") + suffix
        try:
            drafts += read_events(body, Media.NDJSON, max_event=tail.settings.max_event_kib << 10)
        except Problem as problem:
            where = "" if first is None else f"line {number}: "
            detail = _within(problem.detail, prefix)
            quoting = problem.type == "bad-json" and first is None
            remedy = """Quote it for the shell: '{"text": "hello"}' or '"a string"'.""" if quoting else problem.remedy
            refused = BadInput(f"{where}{detail}", remedy=remedy, field=problem.field or "")
            vars(refused)["code"] = (
                problem.type
            )  # bad-json, event-too-large, …: the slug that HTTP gives the same fault
            raise refused from problem
    return drafts


def _within(detail: str, prefix: bytes) -> str:
    """The place of a fault counted in what was given, without what stands before it in the event."""
    before = len(prefix.decode())
    return re.sub(r"(?<=at character )[0-9]+", lambda found: str(max(1, int(found[0]) - before)), detail, count=1)


async def _append(out: Output, tail: Tailrace, run: str, drafts: Sequence[Draft]) -> None:
    """Written in order, awaited together: what was appended before a refusal has been told."""
    writer = (await tail.session()).producer.writer(run)
    sents = [writer.put(draft) for draft in drafts]
    for sent, draft in zip(sents, drafts, strict=True):
        id = await sent
        if out.pretty:
            out.line(f"{run}  {id}  {draft.type}")
        else:
            out.record({"run": run, "id": id, "type": draft.type})


async def _batches() -> AsyncIterator[list[bytes]]:
    """Lines of stdin as they come: all that one read brought, at most MAX_EVENTS at a time."""
    rest = b""
    async for chunk in _chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        for start in range(0, len(lines), MAX_EVENTS):
            yield lines[start : start + MAX_EVENTS]
    if rest.strip():
        yield [rest]


async def _chunks() -> AsyncIterator[bytes]:
    """Stdin, whatever it is: asyncio's pipes take no files. The thread is a daemon, so that Ctrl-C need not wait for it."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()
    room = threading.Semaphore(2)  # reading ahead of the server is of no use
    descriptor = sys.stdin.fileno()

    def read() -> None:
        chunk = b"?"
        while chunk:
            room.acquire()
            try:
                chunk = os.read(descriptor, READ_BYTES)
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except (OSError, RuntimeError):
                return  # stdin or the loop is closed: the command has ended before its input did

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while chunk := await chunks.get():
        yield chunk
        room.release()
