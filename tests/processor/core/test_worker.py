"""What workers tell of themselves, and which of them are remembered."""

from __future__ import annotations

import dataclasses

import pytest

from processor.core.worker import ALIVE_MS, Workers, WorkerState, gone_too_long

HOUR = 3_600_000
NOW = 1_795_506_276_265


def a_worker(
    consumer: str = "web-1-aaaaaa", *tasks: str, seen: int = NOW - 1000, stopped: int | None = None
) -> WorkerState:
    return WorkerState(
        consumer=consumer, host="web", pid=1, tasks=tasks or ("answer",), version="1", seen=seen, stopped=stopped
    )


@pytest.mark.parametrize(
    ("worker", "alive"),
    [
        (a_worker(), True),
        (a_worker(seen=NOW + 5000), True),  # it told after this reading's TIME
        (a_worker(seen=NOW - ALIVE_MS + 1), True),
        (a_worker(seen=NOW - ALIVE_MS), False),
        (a_worker(stopped=NOW - 1000), False),
    ],
)
def test_alive(worker: WorkerState, alive: bool) -> None:
    """A worker lives that told within 15 seconds and has not said that it stops."""
    assert worker.alive(NOW) is alive


def test_what_it_tells_is_read_back() -> None:
    """Every member survives, None and all."""
    told = dataclasses.replace(a_worker(), groups=("audit", "stock"), places=9, running=3, since=5, stopped=7)
    for worker in (a_worker(), told):
        assert WorkerState.parse(worker.json()) == worker


def test_other_releases() -> None:
    """A member that this release does not know is left out; what cannot be a worker is None."""
    told = a_worker().json()
    assert WorkerState.parse(told[:-1] + b',"colour":"red"}') == a_worker()
    for text in (b"", b"[]", b"{}", b'{"consumer":"x"}', b'"text"'):
        assert WorkerState.parse(text) is None


def test_who_has_a_task() -> None:
    """Those alive that take it; else the one that was there last."""
    first = a_worker("first", "answer", stopped=NOW - 5000)
    lost = a_worker("lost", "answer", seen=NOW - 40_000)
    other = a_worker("other", "crawl")
    workers = Workers(NOW, (lost, first, other))
    assert workers.that_have("answer") == []
    assert workers.last_that_had("answer") == first
    assert workers.that_have("crawl") == [other]
    assert workers.last_that_had("crawl") is None
    assert workers.last_that_had("nothing") is None


def test_members_of_a_group() -> None:
    """Those alive that run its reactions; else the one that was there last."""
    lost = dataclasses.replace(a_worker("lost", seen=NOW - 40_000), groups=("audit", "stock"))
    here = dataclasses.replace(a_worker("here"), groups=("stock",))
    workers = Workers(NOW, (lost, here))
    assert workers.members("stock") == [here]
    assert (workers.members("audit"), workers.last_member("audit")) == ([], lost)
    assert workers.last_member("answer") is None


def test_forgetting() -> None:
    """Those gone for a day go, and of each set of tasks and groups all but the last eight; the living stay."""
    living = [a_worker(f"alive-{n}") for n in range(20)]
    gone = [a_worker(f"gone-{n}", stopped=NOW - n * 1000) for n in range(20)]
    gone += [dataclasses.replace(a_worker("member", stopped=NOW - HOUR), groups=("audit",))]
    others = [a_worker("crawler", "crawl", stopped=NOW - HOUR), a_worker("old", "crawl", stopped=NOW - 25 * HOUR)]
    assert gone_too_long([*living, *gone, *others], NOW) == [*(f"gone-{n}" for n in range(8, 20)), "old"]
