"""Runs that this process executes without a worker: renewed, told of cancels, ended with the process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from processor.client.renewal import Call, Renewal
from processor.client.signals import Hold, at_exit, on_stop, watch_signals
from processor.core.errors import ServerUnreachable
from processor.store.scripts import renew_command

if TYPE_CHECKING:
    from processor.client.session import Session

__all__ = ["Owned", "Owners"]

Owner = tuple[str, str]  # run, owner
STOP_SECONDS: Final = 2.0  # for what an execution does when it is stopped


@dataclass(slots=True, eq=False)
class Owned:
    """One owned run. on_cancel: a cancel is asked for; on_ended: somebody ended it or took it over (`closed …`, `stale`)."""

    run: str
    owner: str
    on_cancel: Callable[[], None]
    on_ended: Callable[[str], None]
    task: asyncio.Task[object] | None = None  # what executes it, if the process may stop it


class _Control:
    """Hears cancels of one partition."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    def message(self, body: bytes, /) -> None:
        verb, _, run = body.decode().partition(" ")
        if verb == "cancel":
            self._owners.cancelled(run)

    def resubscribed(self) -> None:
        self._owners.renew_soon()


class Owners:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._owned: dict[str, Owned] = {}
        self._controls: dict[str, _Control] = {}
        self._renewal: Renewal | None = None
        self._loop = asyncio.get_running_loop()
        self._unwatch: list[Callable[[], None]] = []  # take back what the process was asked to tell
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()
        self._drain_seconds = 0.0  # what the last signal left to executions
        self.waited_for = False  # somebody will await close() before the process ends

    async def add(self, owned: Owned) -> None:
        """From now on it is renewed. Returns when cancels of its partition are heard."""
        session = self._session
        if self._closed:
            raise ServerUnreachable(f"run {owned.run}: its Tailrace was closed.")
        self._owned[owned.run] = owned
        if not self._unwatch:
            self._unwatch = [on_stop(self._on_signal), at_exit(self._at_exit)]
        else:
            watch_signals()
        if self._renewal is None:
            script = session.scripts.named("renew")
            self._renewal = Renewal(session.server.address.url, script, session.settings.owner_seconds, self._calls)
            self._renewal.start()
        session.keep_passes()
        partition = session.keys.of(owned.run)
        if partition.ctl not in self._controls:
            control = self._controls[partition.ctl] = _Control(self)
            try:
                await session.server.channels.subscribe(partition.ctl, control)
            except BaseException:
                self._controls.pop(partition.ctl, None)
                raise

    def remove(self, owned: Owned) -> None:
        if self._owned.get(owned.run) is owned:
            del self._owned[owned.run]

    def cancelled(self, run: str) -> None:
        owned = self._owned.get(run)
        if owned is not None:
            owned.on_cancel()

    def renew_soon(self) -> None:
        """A cancel may have been missed; a renewal's answer tells."""
        if self._renewal is not None:
            self._renewal.soon()

    def _calls(self) -> Iterator[Call]:
        """What is to be renewed, a call for each partition; called by the renewing thread."""
        session = self._session
        found: dict[int, list[Owner]] = {}
        for owned in list(self._owned.values()):
            found.setdefault(session.keys.number(owned.run), []).append((owned.run, owned.owner))
        script = session.scripts.named("renew")
        for number, owners in found.items():
            command = renew_command(script, session.limits, session.keys.partitions[number], owners)
            yield Call(command, functools.partial(self._renewed, owners))

    def _renewed(self, owners: Sequence[Owner], answers: Sequence[str]) -> None:
        """Called by the renewing thread; a loop that is blocked hears it when it is free again."""
        news = [(owner, answer) for owner, answer in zip(owners, answers, strict=True) if answer != "renewed"]
        if news and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it was closed in between
                self._loop.call_soon_threadsafe(self._hear, news)

    def _hear(self, news: Sequence[tuple[Owner, str]]) -> None:
        for (run, owner), answer in news:
            owned = self._owned.get(run)
            if owned is None or owned.owner != owner:
                continue
            if answer == "cancelling":
                owned.on_cancel()
            elif answer.startswith("closed") or answer == "stale":
                owned.on_ended(answer)

    def _on_signal(self, number: int) -> Hold | None:
        """SIGINT: somebody waits at a terminal, so what runs here ends now. SIGTERM: a deploy, so it may finish."""
        if self._session.is_foreign or self._loop.is_closed():
            return None
        if not any(owned.task is not None for owned in list(self._owned.values())):
            return None
        self._drain_seconds = 0.0 if number == signal.SIGINT else self._session.settings.drain_seconds
        hold = Hold()
        self._loop.call_soon_threadsafe(self._begin_end, self._drain_seconds, hold)
        return None if self.waited_for else hold

    def _begin_end(self, drain_seconds: float, hold: Hold) -> None:
        ending = self._loop.create_task(self._end(drain_seconds), name="tailrace-end")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        ending.add_done_callback(lambda _: hold.release())

    def _at_exit(self) -> None:
        """The process ends and left its loop as it was, or running in the thread of `.sync`: executions end now."""
        if self._session.is_foreign or self._loop.is_closed() or not self._owned:
            return
        if self._loop.is_running():
            ending = asyncio.run_coroutine_threadsafe(self._end(self._drain_seconds), self._loop)
            with contextlib.suppress(TimeoutError):  # `expire` tells it as owner_lost
                ending.result(self._drain_seconds + STOP_SECONDS)
        else:
            self._loop.run_until_complete(self._end(self._drain_seconds))

    async def _end(self, drain_seconds: float) -> None:
        """Lets executions end by themselves for so long, then stops them; returns when they have said so."""
        tasks = [owned.task for owned in self._owned.values() if owned.task is not None and not owned.task.done()]
        if tasks and drain_seconds > 0:
            await asyncio.wait(tasks, timeout=drain_seconds)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def abandon(self) -> None:
        """The loop is closed: signals and the process's end are nothing to it."""
        self._closed = True
        if self._renewal is not None:
            self._renewal.stop()
        for take_back in self._unwatch:
            take_back()

    async def close(self, drain_seconds: float) -> None:
        """Lets executions end by themselves for so long, then stops them."""
        self._closed = True
        await self._end(drain_seconds)
        for take_back in self._unwatch:
            take_back()
        if self._renewal is not None:
            self._renewal.stop()
            await asyncio.to_thread(self._renewal.join, STOP_SECONDS)
        for ctl, control in self._controls.items():
            self._session.server.channels.unsubscribe(ctl, control)
        self._controls.clear()
