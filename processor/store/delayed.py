"""What waits in `delayed` and is due: runs back to the work stream of their task, retries of reactions to the log (promote.lua)."""

from __future__ import annotations

from typing import Any, Final

import structlog

from processor.core.keys import PartitionKeys
from processor.observe import metrics
from processor.store.connection import uncancelled
from processor.store.scripts import partition_keys
from processor.store.space import Scripted, ms_of

__all__ = ["promote", "promote_all"]

log = structlog.get_logger("tailrace.delayed")

PROMOTE_LIMIT: Final = (
    200  # entries a call: with bodies of 64 KiB it moves 13 MB at most, and blocks the server for few ms
)
MAX_ROUNDS: Final = 50  # calls a partition and look: then the others have their turn


async def promote(session: Scripted, keys: PartitionKeys, limit: int = PROMOTE_LIMIT) -> int:
    """Moves what is due in a partition, the longest overdue first, at most `limit` entries.

    Returns how many were queued. Raises redis-py's errors.
    """
    now = ms_of(await uncancelled(session.redis.time()))
    due: list[bytes] = await uncancelled(_client(session).zrangebyscore(keys.delayed, "-inf", now, 0, limit))
    if not due:
        return 0
    retries = [member.decode() for member in due if b"\n" in member]
    runs = [member.decode() for member in due if b"\n" not in member]
    pipe = _client(session).pipeline(transaction=False)
    for run in runs:
        pipe.hget(keys.run(run), "task")
    tasks = [task.decode() if task else "" for task in await uncancelled(pipe.execute())]
    return await _move(session, keys, list(zip(runs, tasks, strict=True)), retries)


async def _move(session: Scripted, keys: PartitionKeys, due: list[tuple[str, str]], retries: list[str]) -> int:
    """promote.lua's only caller. due: (run, task), "" where the run is gone. retries: of reactions, as `delayed` names them."""
    names = partition_keys(keys)
    args: list[str | bytes | int] = [len(due)]
    for run, task in due:
        names += (keys.run(run), keys.work(task))
        args += (run, task)
    args += retries
    queued, dropped, *lost = await session.scripts.call("promote", names, args)
    if dropped:
        log.info("delayed_dropped", partition=keys.prefix, count=dropped)
    for run in lost:
        metrics.lost_entries_total.inc()
        log.warning("delayed_body_lost", run=run.decode())
    count: int = queued
    metrics.promoted_total.inc(count)
    return count


async def promote_all(session: Scripted, limit: int = PROMOTE_LIMIT) -> int:
    """Moves what is due in every partition. One round trip where nothing is. Returns how many were queued."""
    partitions = list(session.keys.partitions)
    pipe = _client(session).pipeline(transaction=False)
    pipe.time()
    for keys in partitions:
        pipe.zrange(keys.delayed, 0, 0, withscores=True)
    time, *firsts = await uncancelled(pipe.execute())
    now, queued = ms_of(time), 0
    for keys, first in zip(partitions, firsts, strict=True):
        if first and first[0][1] <= now:
            queued += await _promote_rounds(session, keys, limit)
    return queued


async def _promote_rounds(session: Scripted, keys: PartitionKeys, limit: int) -> int:
    queued = 0
    for _ in range(MAX_ROUNDS):
        moved = await promote(session, keys, limit)
        queued += moved
        if moved < limit:
            break
    return queued


def _client(session: Scripted) -> Any:
    """redis-py's own types are unions that nobody wants to narrow."""
    return session.redis
