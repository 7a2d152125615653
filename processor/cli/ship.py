"""`tailrace ship`: log files become runs, line by line and byte for byte, for as long as they are written."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processor.cli.exits import DENIED, DONE, NOT_FOUND, Usage, exit_code
from processor.cli.opening import checked, opened, wait_for
from processor.cli.output import Output, output_of
from processor.cli.words import parse_duration
from processor.core.errors import ServerUnreachable
from processor.core.names import check_run

if TYPE_CHECKING:
    from processor.ship.following import Follower, Options

__all__ = ["ship"]

RETRY_SECONDS = 0.5  # before the server is asked again


class Place(StrEnum):
    START = "start"
    END = "end"


def ship(
    ctx: typer.Context,
    file: Annotated[list[str], typer.Argument(help="Paths, and patterns in quotes: '/var/log/app/*.log'.")],
    run: Annotated[
        str | None, typer.Option("--run", help="One run for all files; else one for each, named by host and path.")
    ] = None,
    multiline: Annotated[
        str | None,
        typer.Option(help="A line that begins so begins an entry. Else: all but lines of stack traces do."),
    ] = None,
    from_: Annotated[
        Place, typer.Option("--from", help="Where a file that the server has never seen begins.")
    ] = Place.START,
    once: Annotated[bool, typer.Option("--once", help="Ship what is there, and end.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="With --once: end the runs as well.")] = False,
    silence: Annotated[str, typer.Option(help="How long nothing comes before an entry is taken to be whole.")] = "1s",
    host: Annotated[str | None, typer.Option(help="Instead of this machine's name; for containers.")] = None,
) -> None:
    """Follow log files into runs. Start it again after anything: no line is lost or repeated."""
    from processor.ship.entries import TRACES, begins_by
    from processor.ship.following import Options
    from processor.ship.names import own_host

    if run is not None:
        check_run(run)
    if finish and not once:
        raise Usage("--finish belongs to --once.", remedy="A file that is followed has no end.")
    options = Options(
        host=own_host(host),
        rule=begins_by(multiline) if multiline is not None else TRACES,
        from_end=from_ is Place.END,
        once=once,
        silence_seconds=parse_duration(silence, field="--silence"),
    )
    raise typer.Exit(wait_for(_ship(output_of(ctx), file, run, options, finish=finish)))


async def _ship(out: Output, files: list[str], run: str | None, options: Options, *, finish: bool) -> int:
    from processor.ship.shipper import Shipper

    def began(follower: Follower) -> None:
        if out.pretty:
            out.say(f"{follower.path} → run {follower.run_id}")
        elif not options.once:
            out.record({"run": follower.run_id, "file": follower.path})

    if not options.once:
        await _server_is_there(out)
    async with opened(out.options) as tail:
        session = await tail.session()
        shipper = Shipper(session, files, options, run=run, began=began)
        stopped = await _until_terminated(shipper.run())
        if options.once and not stopped:
            for one in shipper.followers.values():
                _told(out, one)
            if finish and not shipper.failed:
                await shipper.finish()
    if shipper.failed:
        out.error(shipper.failed[0])
        return exit_code(shipper.failed[0])
    missing = [one.missing for one in shipper.followers.values() if one.missing is not None]
    if missing and options.once:
        return DENIED if all(error.errno in (errno.EACCES, errno.EPERM) for error in missing) else NOT_FOUND
    return DONE


async def _server_is_there(out: Output) -> None:
    """Waits for a server that is away, as it does later on. Raises what will not change by waiting."""
    settings = out.options.settings()
    told = False
    while True:
        try:
            async with checked(settings, writes=True):
                return
        except ServerUnreachable as error:
            if not told:
                out.warning(error)
            told = True
        await asyncio.sleep(RETRY_SECONDS)


def _told(out: Output, follower: Follower) -> None:
    """What was shipped of one file, by --once."""
    if out.pretty:
        out.line(f"{follower.run_id}  {follower.shipped} bytes  {follower.path}")
    else:
        out.record({"run": follower.run_id, "file": follower.path, "bytes": follower.shipped})


async def _until_terminated(work: Coroutine[Any, Any, None]) -> bool:
    """Whether SIGTERM ended it, which may come at any time as SIGKILL may: what is under way is read again."""
    task = asyncio.ensure_future(work)
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    return stopped
