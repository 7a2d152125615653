"""`tailrace exec`: any program becomes a run. Its lines are `log` events, its exit code decides how the run ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from processor.cli.exits import FAILED, Usage
from processor.cli.opening import opened, wait_for
from processor.cli.output import Output, output_of
from processor.core.backoff import GiveUp
from processor.core.errors import RunCancelled, RunExists, RunFailed, TailraceError
from processor.core.json import dumps
from processor.core.names import MAX_LABEL_BYTES, check_run

if TYPE_CHECKING:
    from processor.client.run import Run

__all__ = ["Lines", "exec_"]

FOREVER_SECONDS = 10 * 365 * 86400.0  # the program says how long it takes
NO_COMMAND = 127  # as shells, env and nohup say it
MAX_LINES = 256  # of one event
MAX_BYTES = 32 * 1024  # of one event's lines as JSON: half of what an event may have
PASSED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
KILL_SECONDS = 10.0  # after a cancel and its SIGTERM
MAX_UNSENT_BYTES = (
    4 << 20
)  # of output, while the server is away: then lines are dropped and counted, the program goes on

Stream = Literal["stdout", "stderr"]
LEVEL = {"stdout": "info", "stderr": "warning"}


def exec_(
    ctx: typer.Context,
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    run: Annotated[str | None, typer.Option("--run", help="The run's ID; a generated one by default.")] = None,
) -> None:
    """Run a program as a run, and end as it did. tailrace exec -- make test"""
    if run is not None:
        check_run(run)
    if shutil.which(command[0]) is None:
        output_of(ctx).error(Usage(f"there is no program {command[0]!r}.", remedy="Check its name and PATH."))
        raise typer.Exit(NO_COMMAND)
    raise typer.Exit(wait_for(_exec(output_of(ctx), run, command)))


def _label(command: list[str]) -> str:
    """The command's first words, as long as a label may be: lists show it beside the run's ID."""
    return " ".join(command).encode("utf-8", "replace")[:MAX_LABEL_BYTES].decode("utf-8", "ignore")


async def _exec(out: Output, id: str | None, command: list[str]) -> int:
    program = _Program(out)
    async with opened(out.options) as tail:
        task = tail.task(name="exec", retry=1, timeout_seconds=FOREVER_SECONDS)(program.execute)
        # the process makes the input unlike any other's: the same --run again is refused instead of doing nothing
        try:
            run = await task.options(id=id, labels={"command": _label(command)}).start_here(command, os.getpid())
        except RunExists as error:
            raise RunExists(
                f"run {error.run} exists already, and each exec is a run of its own.",
                remedy="Choose another --run, or leave it out: then the ID is new each time.",
                run=error.run,
            ) from error
        out.say(f"run {run.id}")
        try:
            await run.result()
        except (RunFailed, RunCancelled):
            pass  # the run says so; this process says it by its own exit code
    return program.code if program.code >= 0 else 128 - program.code


class _Program:
    """One child process whose output passes through and goes to a run."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._queue: asyncio.Queue[tuple[Stream, list[str]] | None] = asyncio.Queue()
        self._unsent = 0  # bytes in the queue
        self._dropped = 0  # lines
        self.code = FAILED  # of the child; negative: the signal that ended it

    async def execute(self, run: Any, command: Any, pid: Any) -> dict[str, int]:
        """The task `exec`. Cancelled, the program gets SIGTERM, then SIGKILL."""
        child = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stderr is not None
        sending = asyncio.create_task(self._send(run))
        reading = [
            asyncio.create_task(self._read("stdout", child.stdout, sys.stdout.buffer)),
            asyncio.create_task(self._read("stderr", child.stderr, sys.stderr.buffer)),
        ]
        try:
            with _signals_to(child):
                await asyncio.gather(*reading)
                await child.wait()
        except asyncio.CancelledError:
            await _end(child)
            raise
        finally:
            self.code = child.returncode if child.returncode is not None else FAILED
            for task in reading:
                task.cancel()
            self._queue.put_nowait(None)
            await sending
        if self.code:
            raise GiveUp(f"exit code {self.code}" if self.code > 0 else f"ended by {_name(-self.code)}")
        return {"exit_code": 0}

    async def _read(self, stream: Stream, pipe: asyncio.StreamReader, through: Any) -> None:
        lines = Lines()
        while chunk := await pipe.read(65536):
            through = _pass(chunk, through)
            self._put(stream, lines.feed(chunk))
        self._put(stream, lines.end())

    def _put(self, stream: Stream, lines: list[str]) -> None:
        for batch in _batches(lines):
            size = sum(map(len, batch))
            if self._unsent + size > MAX_UNSENT_BYTES:
                self._dropped += len(batch)
                continue
            self._unsent += size
            self._queue.put_nowait((stream, batch))

    async def _send(self, run: Run[Any]) -> None:
        """One event at a time is awaited: the library's buffer stays small, ours is bounded."""
        while (item := await self._queue.get()) is not None:
            stream, batch = item
            await self._log(run, LEVEL[stream], batch, stream)
            self._unsent -= sum(map(len, batch))
            if self._dropped and not self._unsent:
                dropped, self._dropped = self._dropped, 0
                await self._log(run, "error", [f"{dropped} lines were dropped while the server was away"], "tailrace")

    async def _log(self, run: Run[Any], level: str, lines: list[str], logger: str) -> None:
        try:
            await run.emit("log", {"level": level, "lines": lines, "logger": logger})
        except TailraceError as error:  # the program is not ours to stop; what is sent later may succeed again
            self._out.error(error)


class Lines:
    """Bytes in pieces -> whole lines as text. What is not UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_BYTES // 2:  # a line without end: it goes in pieces
            whole.append(self._rest)
            self._rest = b""
        return [_text(line) for line in whole]

    def end(self) -> list[str]:
        """The last line, if no LF ended it."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode(errors="replace")


def _batches(lines: list[str]) -> Iterator[list[str]]:
    """Lines in the portions of one event each. A line that is too long by itself goes in pieces."""
    batch: list[str] = []
    size = 0
    for line in lines:
        for piece in _pieces(line):
            length = len(dumps(piece)) + 1
            if batch and (len(batch) == MAX_LINES or size + length > MAX_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += length
    if batch:
        yield batch


def _pieces(line: str) -> Iterator[str]:
    if len(line) * 6 <= MAX_BYTES or len(dumps(line)) <= MAX_BYTES:  # JSON escapes take six bytes a character at most
        yield line
        return
    step = MAX_BYTES // 6
    for start in range(0, len(line), step):
        yield line[start : start + step]


def _pass(chunk: bytes, through: Any) -> Any:
    """To our own stdout or stderr; None once nobody reads it any more."""
    if through is None:
        return None
    try:
        through.write(chunk)
        through.flush()
    except BrokenPipeError:
        return None  # the run goes on, as with `command > /dev/null`
    return through


@contextmanager
def _signals_to(child: asyncio.subprocess.Process) -> Iterator[None]:
    """What we are sent, the child gets. A terminal's Ctrl-C reaches it by itself: the whole group gets that."""
    loop = asyncio.get_running_loop()
    numbers = [getattr(signal, name) for name in PASSED]

    def forward(number: signal.Signals) -> None:
        if number in (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH) and _foreground():
            return
        if child.returncode is None:
            child.send_signal(number)

    for number in numbers:
        loop.add_signal_handler(number, forward, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _foreground() -> bool:
    """Whether a terminal sends its keys' signals to our process group, and so to the child's."""
    for descriptor in (0, 1, 2):
        try:
            return os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:
            continue  # no terminal behind this one
    return False


async def _end(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    child.terminate()
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
