"""From flags and environment to an open server, after it was looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from processor.cli.exits import UnknownNamespace
from processor.cli.options import Options
from processor.core.errors import NotConfigured, ServerError
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.checks import check_server
from processor.store.connection import Address, commands, server_error
from processor.store.topology import read_topology

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Reading", "checked", "opened", "reading", "wait_for"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """A namespace that is only read: what store/runs.py calls a Space."""

    redis: Redis
    keys: Keyspace


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run it on a loop of its own; Ctrl-C cancels it and comes out as KeyboardInterrupt."""
    with asyncio.Runner() as runner:
        return runner.run(work)


@asynccontextmanager
async def checked(settings: Settings, *, writes: bool) -> AsyncIterator[Redis]:
    """A plain client of a server that will do. Raises NotConfigured, ServerError."""
    if settings.redis_url is None:
        raise NotConfigured
    redis = commands(Address.parse(settings.redis_url))
    try:
        try:
            await check_server(redis, settings, writes=writes)
        except ServerError as error:
            if "unknown command" not in error.message.lower():  # fakeredis has no INFO: nothing to judge
                raise
        try:
            yield redis
        except RedisError as error:
            raise server_error(error, settings.redis_url) from error
    finally:
        await redis.aclose(close_connection_pool=True)


@asynccontextmanager
async def reading(options: Options) -> AsyncIterator[Reading]:
    """For commands that read: they work on a replica and on a full server too. Raises UnknownNamespace."""
    settings = options.settings()
    async with checked(settings, writes=False) as redis:
        yield Reading(redis, await _known(redis, settings))


@asynccontextmanager
async def opened(options: Options) -> AsyncIterator[Tailrace]:
    """The client, for commands that write or follow. They create the namespace where they are its first users."""
    from processor.client.tailrace import Tailrace  # late: what only prints settings need not load it

    settings = options.settings()
    async with checked(settings, writes=True):
        pass  # its words name where the address came from
    async with Tailrace(settings=settings) as tail:
        yield tail


async def _known(redis: Redis, settings: Settings) -> Keyspace:
    """Raises UnknownNamespace, but not of the default one: that exists, if only without runs."""
    known = await read_topology(redis, settings.namespace)
    if known is not None:
        return known
    if settings.namespace == "default":
        return Keyspace(settings.namespace, f"{settings.partitions} -")
    raise UnknownNamespace(
        f"there is no namespace {settings.namespace!r} at this server.",
        remedy=f"Create it: tailrace namespaces create {settings.namespace}",
    )
