"""How much work each task has: waiting, in workers' hands, delayed; and for how long the first one waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from processor.core.keys import PartitionKeys
from processor.store.connection import execute, uncancelled
from processor.store.schedules import list_schedules
from processor.store.space import Space, ms_of
from processor.store.work import WorkStream, ask_streams, read_fronts, told_streams
from processor.store.workers import list_workers

__all__ = ["Backlog", "known_tasks", "read_backlogs", "tasks_with_work"]

SAMPLE: Final = 1_000  # delayed runs of a partition whose task is looked up; of more the shares are taken
SCAN_COUNT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of one task, over all partitions."""

    task: str
    waiting: int = 0  # queued, not given to a worker
    pending: int = 0  # given to one, not settled
    delayed: int = 0  # retries and starts whose time has not come; estimated where a partition has many
    oldest_ms: int = 0  # how long the first of those waiting has waited


async def read_backlogs(space: Space, tasks: Iterable[str]) -> list[Backlog]:
    """In the order of the tasks. Three round trips, whatever their number."""
    names = list(dict.fromkeys(tasks))
    places = [(task, keys.work(task)) for task in names for keys in space.keys.partitions]
    now, streams = await _streams(space, [stream for _, stream in places])
    fronts = await read_fronts(space, {name: stream for (_, name), stream in zip(places, streams, strict=True)})
    delayed = await _delayed(space)
    waiting, pending, oldest = Counter[str](), Counter[str](), Counter[str]()
    for (task, name), stream in zip(places, streams, strict=True):
        waiting[task] += stream.waiting
        pending[task] += stream.pending
        oldest[task] = max(oldest[task], now - fronts.get(name, now))
    return [Backlog(task, waiting[task], pending[task], delayed[task], oldest[task]) for task in names]


async def _streams(space: Space, names: Sequence[str]) -> tuple[int, list[WorkStream]]:
    """And the server's time in ms."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        ask_streams(untyped, names)
        time, *replies = await uncancelled(untyped.execute(raise_on_error=False))
    if isinstance(time, Exception):
        raise time
    return ms_of(time), told_streams(replies)


async def _delayed(space: Space) -> Counter[str]:
    """How many runs of each task wait for their time."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for keys in space.keys.partitions:
            untyped.execute_command("ZCARD", keys.delayed)
            untyped.execute_command("ZRANGE", keys.delayed, 0, SAMPLE - 1)
        replies = await uncancelled(untyped.execute())
    found = Counter[str]()
    for keys, count, runs in zip(space.keys.partitions, replies[::2], replies[1::2], strict=True):
        if runs:
            of_sample = Counter(await _tasks_of(space, keys, [run.decode() for run in runs]))
            for task, share in of_sample.items():
                found[task] += round(share * count / len(runs))
    return found


async def _tasks_of(space: Space, keys: PartitionKeys, runs: Sequence[str]) -> list[str]:
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for run in runs:
            untyped.execute_command("HGET", keys.run(run), "task")
        tasks = await uncancelled(untyped.execute())
    return [task.decode() for task in tasks if task]


async def known_tasks(space: Space) -> set[str]:
    """Those that workers told of, and those that are scheduled."""
    workers = await list_workers(space)
    _, schedules = await list_schedules(space)
    return {task for worker in workers.all for task in worker.tasks} | {record.task for record in schedules}


async def tasks_with_work(space: Space) -> set[str]:
    """Those that have a work stream, whether any worker knows them or not. Walks all keys of the server, in short steps."""
    first = space.keys.partitions[0].work("")
    start, _, end = first.partition(":0}")
    pattern = f"{_literal(start)}:*}}{_literal(end)}*"
    found: set[str] = set()
    cursor: bytes | str | int = 0
    while True:
        cursor, keys = await execute(space.redis, "SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
        found |= {key.decode().partition("}" + end)[2] for key in keys}
        if int(cursor) == 0:
            return found


def _literal(text: str) -> str:
    """As SCAN's patterns have it."""
    return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in text)
