"""What a Tailrace holds in one event loop: a namespace on a server, its producer, its readers, its owned runs."""

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Final

import structlog
from redis.asyncio import Redis

from processor.client.owners import Owners
from processor.core.chain import Budget, Chain
from processor.core.errors import BadInput, ServerError, ServerUnreachable
from processor.core.keys import Keyspace, PartitionKeys
from processor.core.settings import Settings
from processor.store.append import Appender
from processor.store.connection import redact, speaking_of
from processor.store.executing import Settled, Unit, settle_command
from processor.store.groups import Declared, bind
from processor.store.line import Line
from processor.store.producer import Producer
from processor.store.relaying import Relaying
from processor.store.scripts import Limits, Scripts
from processor.store.server import Server
from processor.store.settling import Settling
from processor.store.topics import Topics
from processor.store.topology import create_topology, settle_layout

__all__ = ["Session"]

log = structlog.get_logger("tailrace")
REOPEN_SECONDS: Final = 0.5
PASS_SECONDS: Final = 5.0


class Session:
    """Opens itself: events that are written before it is open wait for it."""

    process: ClassVar[int] = os.getpid()  # kept, since each write asks, and asking the kernel costs a tenth of it

    def __init__(self, url: str, settings: Settings, declared: Callable[[], Sequence[Declared]] = lambda: ()) -> None:
        """declared: groups of this process, bound when it opens: what it causes itself is not missed before a worker runs."""
        self.settings = settings
        self._declared = declared
        self.pid = self.process
        self.limits = Limits.of(settings)
        self.server = Server.acquire(url)
        buffer_bytes = settings.buffer_mib << 20
        self.appender = Appender(self.server.address, self.limits, budget=Budget(buffer_bytes))
        self.appender.settle_topology = self.settle_topology
        self.producer = Producer(self.appender, buffer_bytes, settings.max_event_kib << 10)
        self._keys: Keyspace | None = None
        self._scripts: Scripts | None = None
        self.topics = Topics(self)
        self.owners = Owners(self)
        self._opened = asyncio.get_running_loop().create_future()
        self._opening: asyncio.Task[None] | None = None
        self._passes: asyncio.Task[None] | None = None
        self.relaying = Relaying(self)
        self._line: Line | None = None
        self._settling: Settling[Unit] | None = None  # of executions without a worker that did something to other runs

    @property
    def is_foreign(self) -> bool:
        """Whether a fork() brought it here: it is the parent's, who goes on with it."""
        return self.pid != Session.process

    @property
    def keys(self) -> Keyspace:
        assert self._keys is not None, "the session is not open yet"
        return self._keys

    @property
    def scripts(self) -> Scripts:
        assert self._scripts is not None, "the session is not open yet"
        return self._scripts

    @property
    def redis(self) -> Redis:
        return self.server.commands

    def start(self) -> None:
        """Begins to open it, once."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="tailrace-open")

    async def ready(self) -> Session:
        """Waits until it is open. Raises ServerError if the present try to open it fails."""
        self.start()
        await asyncio.shield(self._opened)
        return self

    async def _open(self) -> None:
        while True:
            try:
                await self._try_open()
            except Exception as cause:
                if isinstance(cause, ServerError):
                    error = cause
                else:
                    log.exception("open_failed")
                    error = ServerError(f"{redact(self.server.address.url)} cannot be used: {cause!r}")
                # What waits stays in the buffer; who waits is told now.
                self.appender.trouble = error
                failed, self._opened = self._opened, asyncio.get_running_loop().create_future()
                failed.set_exception(error)
                failed.exception()  # told to whoever waits; nobody has to
                for tell in self.appender.on_trouble:
                    tell(error)
                await asyncio.sleep(REOPEN_SECONDS * (0.5 + random.random()))
            else:
                self._opened.set_result(None)
                return

    async def _try_open(self) -> None:
        await self.server.check(self.settings)
        with speaking_of(self.server.address.url):
            self._keys = await create_topology(self.redis, self.settings.namespace, self.settings.partitions)
        self._scripts = Scripts(self.redis, self.limits, shebang=self.server.shebang)
        await self.bind_groups()
        await self.appender.open(self._keys, self._scripts.named("append"))

    async def bind_groups(self) -> None:
        """Tells what this process's reactions bind. Raises ServerError."""
        with speaking_of(self.server.address.url):
            for group in self._declared():
                try:
                    await bind(self, group)
                except BadInput as error:  # a worker refuses to start; who only writes goes on
                    log.error("group_not_bound", group=group.name, error=error.message)

    async def settle_topology(self, partition: int, answered: str) -> Keyspace:
        """After a script answered `topology`: the keyspace to go on with, its partition having the layout. Raises ServerError."""
        with speaking_of(self.server.address.url):
            known, self._keys = self.keys, await settle_layout(self.redis, self.keys, partition, answered)
        if self._keys.layout != known.layout:
            log.warning("namespace_made_anew", namespace=known.namespace)  # flushed, perhaps
            await self.bind_groups()
        return self._keys

    # Passes: every gateway, worker and process with an owned run looks over each partition, and the scripts decide.

    def keep_passes(self) -> None:
        """Begins to make passes, once."""
        if self._passes is None:
            self._passes = asyncio.get_running_loop().create_task(self._make_passes(), name="tailrace-passes")

    async def _make_passes(self) -> None:
        await self.ready_at_last()
        period = min(PASS_SECONDS, self.settings.owner_seconds / 6)
        while True:
            looks: list[Callable[[], Awaitable[object]]] = [self.relaying.look]
            looks += [functools.partial(self.expire, partition) for partition in self.keys.partitions]
            for look in looks:
                try:
                    with speaking_of(self.server.address.url):
                        await look()
                except ServerUnreachable:
                    break  # the next pass finds the silence
                except ServerError as error:
                    log.warning("pass_failed", error=error.message)
            await asyncio.sleep(period * (0.8 + 0.4 * random.random()))

    async def ready_at_last(self) -> Session:
        """Waits until it is open, through all failures."""
        while True:
            try:
                return await self.ready()
            except ServerError:
                await asyncio.sleep(REOPEN_SECONDS)

    async def expire(self, partition: PartitionKeys) -> int:
        """One pass over a partition, and what was due in it. Returns how many runs changed."""
        _, due = await self.scripts.expire(partition)
        if not due:
            return 0
        done, _ = await self.scripts.expire(partition, due)
        return done

    # What executions without a worker do to other runs.

    async def settle(self, unit: Unit, chain: Chain) -> Settled:
        """Behind its live events; asked again until the server answers. chain: of those events."""
        if self._settling is None:
            self._line = Line(self.server.address, "tailrace-settle")
            self._settling = self.settling(self._line)
        answered: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self._settling.put(self.keys.number(unit.run), unit, _unless_given_up(answered), chain)
        return await answered

    def settling(self, line: Line) -> Settling[Unit]:
        """For executions, over that line."""
        script = self.scripts.named("settle")

        def command(partition: int, units: Sequence[Unit]) -> tuple[bytes | str | int, ...]:
            return settle_command(script, self.limits, self.keys, partition, units)

        return Settling(line, script, command, lambda: self.keys, self.relaying.soon)

    async def flush(self, seconds: float) -> None:
        """Waits until everything written has been taken, so long at most."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.appender.busy and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - at a process's end
            await asyncio.sleep(0.002)

    def abandon(self) -> None:
        """Its loop was closed without it: nothing can be sent any more, and what it holds is let go."""
        self.owners.abandon()
        self.server.abandon(self.owners.loop)

    async def close(self, *, drain_seconds: float = 0.0) -> None:
        """Owned runs may end within drain_seconds, then they fail as shutdown; what is written goes out."""
        await self.owners.close(drain_seconds)
        await self.flush(1.0)
        if self._settling is not None:
            await self._settling.close()
        if self._line is not None:
            self._line.close()
        await self.relaying.close(seconds=1.0)
        tasks = [task for task in (self._opening, self._passes) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._opened.done():
            self._opened.set_exception(ServerUnreachable("this Tailrace was closed before it was open."))
            self._opened.exception()  # told to whoever waits; nobody has to
        self.topics.close()
        await self.appender.close()
        await self.server.release()


def _unless_given_up(answered: asyncio.Future[Settled]) -> Callable[[Settled], None]:
    """Tells whoever still waits."""
    return lambda answer: None if answered.done() else answered.set_result(answer)


def _in_child() -> None:
    Session.process = os.getpid()


os.register_at_fork(after_in_child=_in_child)
