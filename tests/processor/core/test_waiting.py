"""Why a queued run waits, in the words that lists, the console and `show` share."""

from __future__ import annotations

import pytest

from processor.core.waiting import why_queued
from processor.core.worker import Workers, WorkerState

NOW = 1_795_506_276_265  # 2026-11-24T07:44:36Z


def alive(pid: int, *, running: int = 0, places: int = 100, task: str = "answer") -> WorkerState:
    return WorkerState(
        consumer=f"web-{pid}", host="web", pid=pid, tasks=(task,), version="1", places=places, running=running, seen=NOW
    )


def gone(pid: int, *, seen: int, stopped: int | None = None, task: str = "answer") -> WorkerState:
    return WorkerState(
        consumer=f"web-{pid}", host="web", pid=pid, tasks=(task,), version="1", seen=seen, stopped=stopped
    )


NONE = 'a worker: none that has task "answer" is alive'


@pytest.mark.parametrize(
    ("workers", "lag", "words"),
    [
        ([], 1, NONE),
        ([alive(1, task="crawl"), gone(2, seen=NOW - 60_000, task="crawl")], 1, NONE),
        (
            [gone(1, seen=NOW - 60_000), gone(2, seen=NOW - 90_000, stopped=NOW - 50_000)],
            1,
            f"{NONE} (last: web-2, stopped 2026-11-24T07:43:46Z)",
        ),
        ([gone(1, seen=NOW - 60_000)], 3, f"{NONE} (last: web-1, last seen 2026-11-24T07:43:36Z)"),
        ([alive(1)], 1, 'a free place: it is next (1 worker with task "answer" is alive)'),
        ([alive(1), alive(2)], 13, 'a free place: up to 12 wait before it (2 workers with task "answer" are alive)'),
        ([alive(1, running=100)], 0, "a free place: all 100 of 1 worker are taken, it is next"),
        (
            [alive(1, running=100), alive(2, running=100)],
            13,
            "a free place: all 200 of 2 workers are taken, up to 12 wait before it",
        ),
        (
            [alive(1, running=100), alive(2, running=99)],
            0,
            'a free place: it is next (2 workers with task "answer" are alive)',
        ),
    ],
)
def test_for_a_worker(workers: list[WorkerState], lag: int, words: str) -> None:
    """Who is missing, or how many wait before it, and whether all places are taken."""
    known = Workers(NOW, tuple(workers))
    assert why_queued("answer", due=None, tried=False, refused=False, lag=lag, workers=known) == words


def test_for_its_time() -> None:
    """A delayed start and a retry say when, one that a limit put off when it is asked again; once that has passed, they wait
    for a worker as all others do."""

    def why(due: int, *, tried: bool = False, refused: bool = False) -> str:
        return why_queued("answer", due=due, tried=tried, refused=refused, lag=0, workers=Workers(NOW))

    assert why(NOW + 5000) == "its time, 2026-11-24T07:44:41Z"
    assert why(NOW + 5000, tried=True, refused=True) == "its next try at 2026-11-24T07:44:41Z"
    assert why(NOW + 5000, refused=True) == "its rate or limit, asked again at 2026-11-24T07:44:41Z"
    assert why(NOW, tried=True) == NONE
