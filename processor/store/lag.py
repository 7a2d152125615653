"""How many runs of a task wait for a worker: entries of its work stream that no worker has taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from processor.core.worker import Workers
from processor.store.connection import uncancelled
from processor.store.space import Space
from processor.store.work import WorkStream, ask_streams, read_fronts, told_streams
from processor.store.workers import read_workers

__all__ = ["Queued", "read_lags", "read_queued"]

LOOK_AT: Final = 100  # newest runs of each partition: who starts a task that nobody has goes on starting it


@dataclass(frozen=True, slots=True)
class Queued:
    """Runs of a task that no worker has taken yet."""

    task: str
    runs: int
    oldest_ms: int  # how long the one in front has waited


async def read_lags(space: Space, streams: Iterable[str]) -> tuple[Workers, dict[str, int]]:
    """The workers there are, and of each work stream (its key) how many entries are not delivered yet. One round trip."""
    workers, found = await _read(space, streams)
    return workers, {name: stream.waiting for name, stream in found.items()}


async def _read(space: Space, streams: Iterable[str]) -> tuple[Workers, dict[str, WorkStream]]:
    names = list(dict.fromkeys(streams))
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        untyped.execute_command("HGETALL", space.keys.workers)
        ask_streams(untyped, names)
        time, workers, *replies = await uncancelled(untyped.execute(raise_on_error=False))
    for reply in (time, workers):
        if isinstance(reply, Exception):
            raise reply
    return read_workers(time, workers), dict(zip(names, told_streams(replies), strict=True))


async def read_queued(space: Space) -> tuple[Workers, list[Queued]]:
    """The workers there are, and the tasks that runs wait for, most runs first.

    A task counts if one of the newest runs of a partition waits for it: no key lists the tasks, and to walk all keys
    would cost a big server more than the answer is worth.
    """
    tasks = await _tasks_of_newest(space)
    names = {partition.work(task): task for partition in space.keys.partitions for task in tasks}
    workers, streams = await _read(space, names)
    fronts = await read_fronts(space, streams)
    found: dict[str, Queued] = {}
    for name, stream in streams.items():
        if stream.waiting:
            task = names[name]
            known = found.get(task, Queued(task, 0, 0))
            waited = max(0, workers.now - fronts.get(name, workers.now))
            found[task] = Queued(task, known.runs + stream.waiting, max(known.oldest_ms, waited))
    return workers, sorted(found.values(), key=lambda queued: (-queued.runs, queued.task))


async def _tasks_of_newest(space: Space) -> set[str]:
    """Of the queued among the runs that changed last."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for partition in space.keys.partitions:
            untyped.execute_command("ZREVRANGE", partition.index, 0, LOOK_AT - 1)
        pages = await uncancelled(untyped.execute())
    keys = [
        partition.run(run.decode())
        for partition, page in zip(space.keys.partitions, pages, strict=True)
        for run in page
    ]
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped = pipe
        for key in keys:
            untyped.execute_command("HMGET", key, "status", "task")
        states = await uncancelled(untyped.execute())
    return {task.decode() for status, task in states if status == b"queued" and task}
