"""The registry of workers: each tells every few seconds that it lives, which tasks it takes and whose reactions it runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from processor.core.version import own_version
from processor.core.worker import Workers, WorkerState, gone_too_long
from processor.store.connection import execute, uncancelled
from processor.store.space import Space, ms_of

__all__ = ["ANNOUNCE_SECONDS", "announce", "forget_gone", "list_workers", "read_workers", "tell_stopped", "worker_here"]

ANNOUNCE_SECONDS: Final = 5.0  # three times within core.worker.ALIVE_MS


def worker_here(consumer: str, tasks: Iterable[str], *, groups: Iterable[str] = (), places: int) -> WorkerState:
    """This process, as it announces itself. groups: whose reactions it runs. places: executions at a time."""
    return WorkerState(
        consumer=consumer,
        host=socket.gethostname(),
        pid=os.getpid(),
        tasks=tuple(sorted(tasks)),
        groups=tuple(sorted(groups)),
        version=own_version(),
        places=places,
    )


async def announce(space: Space, worker: WorkerState) -> WorkerState:
    """Tells that it lives. Call it at the start and every ANNOUNCE_SECONDS, with what it returned and `running` of now.

    The first call forgets the workers that went long ago.
    """
    now = await _time(space)
    if not worker.since:
        worker = replace(worker, since=now)
        await forget_gone(space)
    worker = replace(worker, seen=now)
    await execute(space.redis, "HSET", space.keys.workers, worker.consumer, worker.json())
    return worker


async def tell_stopped(space: Space, worker: WorkerState) -> WorkerState:
    """Tells that it takes nothing more: from now on it counts as gone, and is known to have meant it."""
    now = await _time(space)
    worker = replace(worker, seen=now, stopped=now, running=0)
    await execute(space.redis, "HSET", space.keys.workers, worker.consumer, worker.json())
    return worker


async def list_workers(space: Space) -> Workers:
    """One round trip. Those that are gone too, until they are forgotten."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        untyped.execute_command("HGETALL", space.keys.workers)
        time, fields = await uncancelled(untyped.execute())
    return read_workers(time, fields)


def read_workers(time: Any, fields: Any) -> Workers:
    """From the replies to TIME and HGETALL, for those who ask for more in the same round trip."""
    values = fields.values() if isinstance(fields, Mapping) else fields[1::2]
    workers = (WorkerState.parse(value) for value in values)
    return Workers(ms_of(time), tuple(worker for worker in workers if worker is not None))


async def _time(space: Space) -> int:
    return ms_of(await execute(space.redis, "TIME"))


async def forget_gone(space: Space) -> int:
    """Takes those out that went long ago. Returns how many."""
    known = await list_workers(space)
    names = gone_too_long(known.all, known.now)
    if names:  # one that comes back to life tells again within seconds
        await execute(space.redis, "HDEL", space.keys.workers, *names)
    return len(names)
