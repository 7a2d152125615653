"""Keeps a process running: starts it again when it died, and puts a newer one in its place when its files change."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from processor.cli.children import Child
from processor.cli.exits import DONE, USAGE
from processor.cli.reload import changed, stamp

__all__ = ["Keeper", "Kept", "Tell", "keep_together"]

FIRST_PAUSE_SECONDS: Final = 0.5
MAX_PAUSE_SECONDS: Final = 30.0
SETTLED_SECONDS: Final = 10.0  # who lived so long died of something new, and the next one need not wait
KILL_SECONDS: Final = 5.0  # behind the time that it has to drain


class Tell(Protocol):
    """How people and logs hear of it."""

    def __call__(self, event: str, sentence: str, **fields: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept. env: besides our own. reload: replaced when a file that it imported changes. once: it may end by itself."""

    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    pass_fds: Sequence[int] = ()
    stdout: int | None = None
    reload: bool = False
    once: bool = False
    drain_seconds: float


class Keeper:
    """Of one process. run() returns when it is over; stop() makes it so."""

    def __init__(self, kept: Kept, tell: Tell) -> None:
        self._kept, self._tell = kept, tell
        self.may_run = asyncio.Event()  # once that is known
        self._stopping = asyncio.Event()
        self._living: dict[Child, asyncio.Task[int]] = {}  # replaced ones too, while they drain
        self._deaths = 0  # in a row

    def stop(self, number: int) -> None:
        """Passes the first signal on, which makes it drain; a second ends it at once."""
        if self._stopping.is_set():
            number = signal.SIGKILL
        self._stopping.set()
        for child in self._living:
            # while Python starts, SIGINT would be a traceback
            own = number if child.is_ready or number == signal.SIGKILL else signal.SIGTERM
            _end(child, own, self._kept.drain_seconds + KILL_SECONDS)

    async def run(self) -> int:
        """Until stop(), then 0; or until it ended in a way that no other try changes, then its exit code."""
        try:
            return await self._keep()
        except BaseException:
            self.stop(signal.SIGTERM)
            raise
        finally:
            await asyncio.gather(*self._living.values())

    async def _keep(self) -> int:
        while not self._stopping.is_set():
            child = await self._start()
            if await child.came_up():
                self.may_run.set()
                child = await self._until_it_ends(child)
            if self._stopping.is_set():
                break
            code = await child.ended()
            if self._is_final(child, code):
                return code
            self.may_run.set()
            await self._mourn(child, code)
        return DONE

    async def _start(self) -> Child:
        kept = self._kept
        child = await Child.start(kept.command, env=kept.env, pass_fds=kept.pass_fds, stdout=kept.stdout)
        self._living[child] = task = asyncio.create_task(child.ended(), name=f"end-{child.pid}")
        task.add_done_callback(lambda _: self._living.pop(child, None))
        if self._stopping.is_set():  # while it was made
            _end(child, signal.SIGTERM, kept.drain_seconds + KILL_SECONDS)
        return child

    async def _until_it_ends(self, child: Child) -> Child:
        """The process that had the place last: it has ended, unless stop() was called."""
        self._tell_ready(child)
        while await self._lives_until_changed(child):
            child = await self._replaced(child)
        return child

    def _tell_ready(self, child: Child) -> None:
        self._tell("process_ready", f"runs as process {child.pid}", pid=child.pid)

    async def _lives_until_changed(self, child: Child) -> bool:
        """False when it ended or is to end; True when its files changed."""
        ends: list[Coroutine[Any, Any, object]] = [child.ended(), self._stopping.wait()]
        if self._kept.reload:
            ends.append(changed(child.files))
        found = await _first(*ends)
        if not isinstance(found, Path):
            return False
        self._tell("file_changed", f"{_short(found)} changed", path=str(found))
        return True

    async def _replaced(self, old: Child) -> Child:
        """A process with the code of now, while the old one drains; the old one where the new does not come up."""
        new = await self._start()
        if await new.came_up():
            self._tell_ready(new)
            _end(old, signal.SIGTERM, self._kept.drain_seconds + KILL_SECONDS)
            return new
        # the same fault need not be told again
        old.files |= {path: stamp(path) for path in old.files} | new.files
        if not self._stopping.is_set():
            self._tell("reload_failed", f"does not start as it is now: process {old.pid} goes on", pid=old.pid)
        return old

    def _is_final(self, child: Child, code: int) -> bool:
        """Whether no other try, of the same words and files, would end otherwise."""
        if self._kept.once:
            return code >= 0  # else killed
        return code == USAGE and not child.is_ready and not (self._kept.reload and child.files)

    async def _mourn(self, child: Child, code: int) -> None:
        """Waits before the next try: a while, or where its code is at fault for a change of that."""
        self._deaths = 1 if child.lived_seconds >= SETTLED_SECONDS else self._deaths + 1
        waits: list[Coroutine[Any, Any, object]] = [self._stopping.wait()]
        if self._kept.reload and child.files:
            waits.append(changed(child.files))
        if self._kept.reload and child.files and code == USAGE and not child.is_ready:
            self._tell("start_failed", "does not start; waits for a change of its files", code=code)
        else:
            pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._deaths - 1, 10))
            waits.append(asyncio.sleep(pause))
            self._tell(
                "process_died",
                f"process {child.pid} {_how(code)}; the next one starts in {pause:g} s",
                pid=child.pid,
                code=code,
                pause_seconds=pause,
            )
        await _first(*waits)


async def keep_together(keepers: Sequence[Keeper]) -> int:
    """Until all are over. One that is over with an error takes the others along; that error's code.

    The first one goes ahead: what is wrong with all of them need not be told by each.
    """
    first, *others = keepers
    tasks = [asyncio.create_task(first.run())]
    if await _first(first.may_run.wait(), asyncio.wait(tasks)) is True:
        tasks += [asyncio.create_task(keeper.run()) for keeper in others]
    for task in asyncio.as_completed(tasks):
        if await task != DONE:
            for keeper in keepers:
                keeper.stop(signal.SIGTERM)
            break
    return next((code for code in await asyncio.gather(*tasks) if code), DONE)


def _end(child: Child, number: int, patience: float) -> None:
    child.send(number)
    asyncio.get_running_loop().call_later(patience, child.send, signal.SIGKILL)


async def _first(*waits: Coroutine[Any, Any, object]) -> object:
    """What the first of them gives; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task.result() for task in tasks if task in done)
    finally:
        for task in tasks:
            task.cancel()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
