"""Why a queued run does not run, in words.

Times in them are RFC 3339 in UTC, so that whoever shows them to a person can say them in that person's own time.
"""

from __future__ import annotations

from datetime import UTC, datetime

from processor.core.worker import Workers

__all__ = ["why_queued"]


def why_queued(task: str, *, due: int | None, tried: bool, refused: bool, lag: int, workers: Workers) -> str:
    """What it waits for; reads on behind "waits for".

    due: before which it does not run (ms), None for at once. tried: whether an execution of it began before.
    refused: whether a worker had it in hand and put it off before it began, as a rate or a limit asks.
    lag: entries of the task, in the run's partition, that no worker has taken yet, its own among them.
    """
    if due is not None and due > workers.now:
        if tried:
            return f"its next try at {_second(due)}"
        return f"its {'rate or limit, asked again at' if refused else 'time,'} {_second(due)}"
    having = workers.that_have(task)
    if not having:
        return f'a worker: none that has task "{task}" is alive{_last(task, workers)}'
    count = f"{len(having)} workers" if len(having) > 1 else "1 worker"
    # Where it stands among them the server cannot tell without reading them all.
    queue = f"up to {lag - 1} wait before it" if lag > 1 else "it is next"
    places = sum(worker.places for worker in having)
    if places and sum(worker.running for worker in having) >= places:
        return f"a free place: all {places} of {count} are taken, {queue}"
    return f'a free place: {queue} ({count} with task "{task}" {"are" if len(having) > 1 else "is"} alive)'


def _last(task: str, workers: Workers) -> str:
    last = workers.last_that_had(task)
    if last is None:
        return ""
    return f" (last: {last.name}, {'last seen' if last.stopped is None else 'stopped'} {_second(last.last)})"


def _second(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
