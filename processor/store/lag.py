"""How many runs of a task wait for a worker: entries of its work stream that no worker has taken."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from redis.exceptions import ResponseError

from processor.core.worker import Workers
from processor.store.connection import uncancelled
from processor.store.space import Space
from processor.store.workers import read_workers

__all__ = ["GROUP", "read_lags"]

GROUP: Final = "workers"  # of every work stream


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
