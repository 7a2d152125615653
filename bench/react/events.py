"""The events that the reactions of the benches are for, appended through tailrace."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace

__all__ = ["ASKED", "DONE", "append_facts", "even_runs", "in_blocks", "own_runs"]

ASKED: Final = "work.asked"
DONE: Final = "work.done"
AT_ONCE: Final = 2_000  # events in flight


def own_runs(count: int, prefix: str = "o") -> list[str]:
    """One run an event, wherever they fall."""
    return [f"{prefix}{number:025}" for number in range(count)]


def even_runs(keys: Keyspace, count: int, prefix: str = "e") -> list[str]:
    """Runs that take turns among the partitions: a few by chance would leave some without work."""
    found: list[str] = []
    names = (f"{prefix}{number:025}" for number in itertools.count())
    partitions = len(keys.partitions)
    while len(found) < count:
        found.append(next(name for name in names if keys.number(name) == len(found) % partitions))
    return found


def in_blocks(runs: Sequence[str], count: int, block: int) -> Iterator[str]:
    """The run of each of so many events, `block` of a run at once, evenly over all runs: a read then meets as many runs, however
    many there are."""
    blocks = -(-count // block)
    step = max(1, len(runs) // blocks)
    return itertools.islice(
        (run for run in itertools.cycle(runs[::step] if step > 1 else runs) for _ in range(block)), count
    )


async def append_facts(tail: Tailrace, runs: Iterable[str], type: str = ASKED) -> int:
    """One fact into each of the runs, which may repeat. How many the server has accepted."""
    accepted = 0
    remaining = iter(runs)
    while part := list(itertools.islice(remaining, AT_ONCE)):
        handles = {run: tail.run(run) for run in dict.fromkeys(part)}
        for sent in [handles[run].emit(type, {"number": accepted + n}) for n, run in enumerate(part)]:
            await sent
        accepted += len(part)
    return accepted
