"""Work streams as they stand: what no worker was given yet, what they hold, and when the first that waits was added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from processor.store.connection import uncancelled
from processor.store.executing import GROUP
from processor.store.space import Space

__all__ = ["WorkStream", "ask_streams", "read_fronts", "told_streams"]


class WorkStream(NamedTuple):
    """Of one task and partition. What is settled is deleted, so what is not pending waits; XINFO's own lag is null then."""

    waiting: int  # queued, not given to a worker
    pending: int  # given to one, not settled
    delivered: str  # ID of the entry that was given out last


def ask_streams(pipe: Any, names: Sequence[str]) -> None:
    """Puts into a pipeline what `told_streams` reads. names: keys of work streams."""
    for name in names:
        pipe.execute_command("XLEN", name)
        pipe.execute_command("XINFO", "GROUPS", name)


def told_streams(replies: Sequence[Any]) -> list[WorkStream]:
    """In the order asked. Raises what the server answered instead."""
    return [_stream(*replies[n : n + 2]) for n in range(0, len(replies), 2)]


def _stream(length: Any, groups: Any) -> WorkStream:
    if isinstance(length, Exception):
        raise length
    if isinstance(groups, Exception) and not isinstance(groups, ResponseError):  # that there is no such key
        raise groups
    for group in groups if isinstance(groups, list) else []:
        said = group if isinstance(group, dict) else dict(zip(group[::2], group[1::2], strict=True))
        of = {name.decode() if isinstance(name, bytes) else name: value for name, value in said.items()}
        if of["name"] == GROUP.encode():
            return WorkStream(max(0, length - of["pending"]), of["pending"], of["last-delivered-id"].decode())
    return WorkStream(length, 0, "0-0")  # no worker has ever looked


async def read_fronts(space: Space, streams: Mapping[str, WorkStream]) -> dict[str, int]:
    """When the first entry that waits was added (ms), of streams (by key) where one does."""
    behind = [name for name, stream in streams.items() if stream.waiting]
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for name in behind:
            untyped.execute_command("XRANGE", name, f"({streams[name].delivered}", "+", "COUNT", 1)
        found = await uncancelled(untyped.execute())
    return {name: int(entries[0][0].partition(b"-")[0]) for name, entries in zip(behind, found, strict=True) if entries}
