"""Dead letters as workers leave them, written by hand."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from processor.core.cursor import FeedId
from processor.core.events import compose
from processor.core.json import dumps
from processor.core.keys import Keyspace
from processor.core.partition import root_of
from processor.store.letters import DeadLetter, Place

__all__ = ["EPOCH", "bury"]

EPOCH = 1_700_000_000_000
HOUR = 3_600_000
_count = itertools.count()


def bury(
    client: Any,
    keys: Keyspace,
    run: str,
    *,
    task: str = "charge",
    error: str = "TimeoutError: the bank said nothing",
    reason: str = "error",
    attempts: int = 3,
    traceback: str | None = None,
    input: Any = None,
    labels: Mapping[str, str] | None = None,
    thread: bool = False,
    died: int | None = None,
    lost: bool = False,
) -> DeadLetter:
    """A failed run, of which no more than its hash is left, and its letter. died: ms; by default a millisecond after the one before.

    thread: whether it was a run of the thread that is its root. lost: the run's origin was, too.
    """
    died = EPOCH + next(_count) if died is None else died
    queued = FeedId(1, died - 60_000)
    data = {"error": error, "reason": reason} | ({"traceback": traceback} if traceback else {})
    failed = compose("run.failed", dumps(data), attempt=attempts)
    origin = compose("run.queued", dumps({"task": task, "input": input if input is not None else {}}), labels=labels)
    partition = keys.of(run)
    place = Place(keys.number(run), "task", task, f"{died}-0")
    fields = {"r": run, "i": "" if lost else str(queued), "e": b"" if lost else origin, "f": failed}
    client.xadd(partition.dead_task(task), fields, id=place.entry)
    hash = partition.run(run)
    members: dict[str, str] = {
        "status": "failed",
        "task": task,
        "tail": f"9-{died}",
        "created": str(queued.ms),
        "ended": str(died),
    }
    client.hset(hash, mapping={**members, **({"thread": root_of(run)} if thread else {})})
    client.pexpire(hash, HOUR)
    return DeadLetter(place, run, "" if lost else str(queued), b"" if lost else origin, failed)
