"""`tailrace replay`: read a run again, at the pace at which it happened or any other."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from processor.cli.exits import DONE, FAILED, Usage
from processor.cli.find import find_run
from processor.cli.opening import Reading, reading, wait_for
from processor.cli.output import Output, output_of
from processor.cli.tail import Viewing, shown
from processor.cli.view import View
from processor.cli.words import Place, parse_place
from processor.core.ago import ago
from processor.core.events import Event, gap_event
from processor.store.runs import RunState, read_feed, read_state

__all__ = ["Pace", "replay"]

MAX = 0.0  # speed: as fast as it goes
PAGE = 500
LONG_SECONDS = 5.0  # a pause that is told, so that nobody takes it for a hang


def replay(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(help="ID, or its beginning or end.")],
    speed: Annotated[str, typer.Option(help="0.1 to 100 times the recorded pace, or max.")] = "1",
    from_: Annotated[str | None, typer.Option("--from", help="First event: its number, its id, a time.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="Last event, alike.")] = None,
    type: Annotated[list[str] | None, typer.Option("--type", help="Only such types: tool.*; may be repeated.")] = None,
    step: Annotated[bool, typer.Option("--step", help="One event a key; q ends.")] = False,
) -> None:
    """Play a run again, leaving it alone. Ends with 1 if it failed or was cancelled."""
    now = datetime.now(UTC)
    if step and not sys.stdin.isatty():
        raise Usage("--step waits for keys, and stdin is no terminal.", remedy="Use --speed, or --from and --to.")
    wanted = _Wanted(
        parse_place(from_, now, field="--from") if from_ else None,
        parse_place(to, now, field="--to") if to else None,
        Viewing(type or ()),
    )
    raise typer.Exit(wait_for(_replay(output_of(ctx), run, wanted, _speed(speed), step)))


@dataclass(frozen=True, slots=True)
class _Wanted:
    first: Place | None
    last: Place | None
    viewing: Viewing


def _speed(text: str) -> float:
    if text == "max":
        return MAX
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0.1 <= speed <= 100:
        raise Usage(f"--speed is {text!r}.", remedy="Give 0.1 to 100, or max.", field="--speed", value=text)
    return speed


class Pace:
    """When the next event is due: the recorded distances, divided by the speed."""

    def __init__(self, speed: float) -> None:
        """speed: MAX for no waiting at all."""
        self._speed = speed
        self._origin: tuple[int, float] | None = None  # recorded ms and the time at which it was played

    def wait_seconds(self, ms: int, now: float) -> float:
        """How long to wait from now for an event recorded at ms; the first one is due at once."""
        if self._speed == MAX:
            return 0.0
        if self._origin is None:
            self._origin = (ms, now)
        recorded, played = self._origin
        return max(0.0, played + (ms - recorded) / 1000 / self._speed - now)


async def _replay(out: Output, text: str, wanted: _Wanted, speed: float, step: bool) -> int:
    async with reading(out.options) as space:
        run = await find_run(space, text)
        state = await read_state(space, run)
        assert state is not None  # find_run has just seen it
        view = View(out)
        pace = Pace(MAX if step else speed)
        played = False
        if step:
            out.say("any key: the next event; q ends")
        async for event in _events(space, run, state, wanted):
            if not wanted.viewing.wants(event):
                continue
            played = True
            if event.seq:
                await _until_due(out, pace, event)
            shown(out, view, event, wanted.viewing)
            if step and event.seq:
                view.close()
                if await _key() in ("q", "\x04", ""):
                    break
        view.close()
    if not played:
        out.say(f"{run} has no such events; its last one is {state.tail}")
    if not state.terminal:
        out.say(f"{run} is {state.status}; this was all of it so far. `tailrace tail {run}` goes on.")
    return FAILED if state.status in ("failed", "cancelled") else DONE


async def _until_due(out: Output, pace: Pace, event: Event[Any]) -> None:
    seconds = pace.wait_seconds(event.feed_id.ms, asyncio.get_running_loop().time())
    if seconds > LONG_SECONDS:
        out.say(f"the next event is {ago(seconds)} away; --speed and --from shorten that")
    if seconds:
        await asyncio.sleep(seconds)


async def _events(space: Reading, run: str, state: RunState, wanted: _Wanted) -> AsyncIterator[Event[Any]]:
    """What is kept of the run from the first to the last place, and a gap where its beginning is gone."""
    begin = wanted.first.seq if wanted.first is not None and wanted.first.seq is not None else 1
    tail = int((state.tail or "0-0").partition("-")[0])
    next_seq = max(1, begin)
    while True:
        page = await read_feed(space, run, next_seq, last=tail, count=PAGE)
        first = page[0][0].seq if page else tail + 1
        if first > next_seq:
            yield gap_event(run, next_seq, first - 1, "trimmed" if page else "expired", state.json())
        for id, payload in page:
            if wanted.last is not None and wanted.last.before(id):
                return
            if wanted.first is None or not wanted.first.after(id):
                yield Event(run, id, payload)
        if len(page) < PAGE:
            return
        next_seq = page[-1][0].seq + 1


async def _key() -> str:
    """One key of the terminal, without Return; "" at its end."""
    descriptor = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    pressed: asyncio.Future[str] = loop.create_future()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, _take_key, descriptor, pressed)
    try:
        return await pressed
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _take_key(descriptor: int, pressed: asyncio.Future[str]) -> None:
    """Unbuffered: a second key stays for the next event."""
    if not pressed.done():
        pressed.set_result(os.read(descriptor, 1).decode(errors="replace"))
