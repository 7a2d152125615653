"""How many runs of a task wait for a worker: entries of its work stream that no worker has taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from processor.core.worker import Workers
from processor.store.connection import uncancelled
from processor.store.space import Space
from processor.store.workers import read_workers

__all__ = ["GROUP", "Queued", "read_lags", "read_queued"]

GROUP: Final = "workers"  # of every work stream
LOOK_AT: Final = 100  # newest runs of each partition: who starts a task that nobody has goes on starting it


@dataclass(frozen=True, slots=True)
class Queued:
    """Runs of a task that no worker has taken yet."""

    task: str
    runs: int
    oldest_ms: int  # how long the one in front has waited


async def read_lags(space: Space, streams: Iterable[str]) -> tuple[Workers, dict[str, int]]:
    """The workers there are, and of each work stream (its key) how many entries are not delivered yet. One round trip.

    What is delivered is deleted with its acknowledgement, so the rest is all that is not pending; XINFO's lag is null or
    wrong once entries were deleted.
    """
    names = list(dict.fromkeys(streams))
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        untyped.execute_command("HGETALL", space.keys.workers)
        for name in names:
            untyped.execute_command("XLEN", name)
            untyped.execute_command("XPENDING", name, GROUP)
        time, workers, *replies = await uncancelled(untyped.execute(raise_on_error=False))
    for reply in (time, workers):
        if isinstance(reply, Exception):
            raise reply
    lags = {name: _lag(*replies[2 * n : 2 * n + 2]) for n, name in enumerate(names)}
    return read_workers(time, workers), lags


def _lag(length: Any, pending: Any) -> int:
    if isinstance(length, Exception):
        raise length
    if isinstance(pending, ResponseError) and "NOGROUP" in str(pending):
        return int(length)  # no worker has ever looked
    if isinstance(pending, Exception):
        raise pending
    taken = pending["pending"] if isinstance(pending, dict) else pending[0]
    return max(0, int(length) - int(taken))


async def read_queued(space: Space) -> tuple[Workers, list[Queued]]:
    """The workers there are, and the tasks that runs wait for, most runs first.

    A task counts if one of the newest runs of a partition waits for it: no key lists the tasks, and to walk all keys
    would cost a big server more than the answer is worth.
    """
    tasks = await _tasks_of_newest(space)
    streams = {partition.work(task): task for partition in space.keys.partitions for task in tasks}
    workers, lags = await read_lags(space, streams)
    behind = [name for name, lag in lags.items() if lag]
    fronts = dict(zip(behind, await _fronts(space, behind), strict=True))
    found: dict[str, Queued] = {}
    for name, front in fronts.items():
        task = streams[name]
        known = found.get(task, Queued(task, 0, 0))
        waited = max(0, workers.now - front) if front else 0
        found[task] = Queued(task, known.runs + lags[name], max(known.oldest_ms, waited))
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


async def _fronts(space: Space, streams: Sequence[str]) -> list[int]:
    """When the first entry that is not delivered was added to each stream (ms), 0 where a worker has just taken it."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for name in streams:
            untyped.execute_command("XINFO", "GROUPS", name)
        groups = await uncancelled(untyped.execute(raise_on_error=False))
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped = pipe
        for name, reply in zip(streams, groups, strict=True):
            untyped.execute_command("XRANGE", name, f"({_delivered(reply)}", "+", "COUNT", 1)
        entries = await uncancelled(untyped.execute())
    return [int(found[0][0].partition(b"-")[0]) if found else 0 for found in entries]


def _delivered(groups: Any) -> str:
    """The last entry that the workers' group was given. groups: a reply to XINFO GROUPS, or what the server said instead."""
    for group in groups if isinstance(groups, list) else []:
        if isinstance(group, dict):
            said = {str(name): value for name, value in group.items()}
        else:
            said = {name.decode(): value for name, value in zip(group[::2], group[1::2], strict=True)}
        if said["name"] == GROUP.encode():
            last: bytes = said["last-delivered-id"]
            return last.decode()
    return "0-0"
