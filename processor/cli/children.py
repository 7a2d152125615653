"""A process that this one starts and keeps: it ends with us, says when it is ready, and tells the files that it imported."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from processor.cli.parent import TELL_VARIABLE
from processor.store.embedded import until_parent_dies

__all__ = ["Child", "own_command"]


def own_command(*words: str, module: str = "processor.cli.main") -> list[str]:
    """`tailrace`, or another module of ours, with these words, by this interpreter, as a process of its own."""
    root = Path(__file__).parents[2]
    # -P: a folder `processor` of the user's project must not stand in front of ours
    safely = [] if root == Path.cwd() else ["-P"]
    return [sys.executable, *safely, "-m", module, *words]


TELLING_SECONDS: Final = 1.0


class Child:
    """One process. It has a session of its own: a terminal's Ctrl-C is for us, and we pass it on once."""

    def __init__(self, process: asyncio.subprocess.Process, telling: asyncio.StreamReader) -> None:
        self.process = process
        self.files: dict[Path, str] = {}  # imported by it, with the stamp that each had then
        self.is_ready = False
        self._started = time.monotonic()
        self._telling = asyncio.create_task(self._listen(telling), name=f"child-{process.pid}")
        self._came_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls, command: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int] = (), stdout: int | None = None
    ) -> Child:
        """env: besides our own. stdout: a file descriptor instead of our own. Call it in the main thread."""
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *until_parent_dies(command),
                env={**os.environ, **env, TELL_VARIABLE: str(writing)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                pass_fds=(writing, *pass_fds),
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        stream = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(stream)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(reading, "rb", 0))
        return cls(process, stream)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        """Its exit code (negative: the signal) once it has ended."""
        return self.process.returncode

    @property
    def lived_seconds(self) -> float:
        return time.monotonic() - self._started

    async def came_up(self) -> bool:
        """Waits until it is ready; False if it ended before."""
        end = asyncio.create_task(self.ended())
        either: list[asyncio.Future[Any]] = [self._came_up, end]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not self.is_ready:
                await end
        finally:
            end.cancel()
        return self.is_ready

    async def ended(self) -> int:
        """Waits for its end, and for what it told before."""
        code = await self.process.wait()
        # what it started and left behind may hold the pipe open
        await asyncio.wait([self._telling], timeout=TELLING_SECONDS)
        self._telling.cancel()
        return code

    def send(self, number: int) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def _listen(self, telling: asyncio.StreamReader) -> None:
        try:
            while line := await telling.readline():
                said: dict[str, Any] = json.loads(line)
                if "file" in said:
                    self.files[Path(said["file"])] = said["stamp"]
                if said.get("ready"):
                    self.is_ready = True
                    self._come_up()
        finally:
            self._come_up()

    def _come_up(self) -> None:
        if not self._came_up.done():
            self._came_up.set_result(None)
