"""Which tasks a worker names as missing, and which of several workers does."""

from __future__ import annotations

from socket import gethostname

import pytest

from processor.cli.lacking import lacking, no_task, tells
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.worker import Workers, WorkerState
from processor.store.lag import Queued
from processor.worker.worker import Worker

NOW = 1_795_506_276_265
QUEUED = [Queued("answer", 2, 1000), Queued("crawl", 12, 41_000)]


@pytest.fixture
async def worker() -> Worker:
    tail = Tailrace()

    @tail.task
    async def answer(run: Run) -> None: ...

    return Worker(tail, consumer="b")


def other(consumer: str, *tasks: str, host: str = "", stopped: int | None = None) -> WorkerState:
    host = host or gethostname()
    return WorkerState(
        consumer=consumer, host=host, pid=1, tasks=tasks or ("answer",), version="1", seen=NOW, stopped=stopped
    )


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ([], ["crawl"]),
        ([other("b")], ["crawl"]),
        ([other("x", "crawl")], []),
        ([other("x", "crawl", stopped=NOW)], ["crawl"]),
    ],
)
def test_what_is_named(others: list[WorkerState], named: list[str]) -> None:
    """Tasks that runs wait for and that no worker has which lives."""
    assert [one.task for one in lacking(Workers(NOW, tuple(others)), QUEUED, ["answer"])] == named


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([], True),  # it has not announced itself yet
        ([other("b")], True),
        ([other("a"), other("b")], False),
        ([other("c"), other("b")], True),
        ([other("a", host="another"), other("b")], True),  # each machine has its own log
        ([other("a", "answer", "more"), other("b")], True),
        ([other("a", stopped=NOW), other("b")], True),
    ],
)
async def test_who_names_them(worker: Worker, others: list[WorkerState], told: bool) -> None:
    """Of several workers alike on a machine, one."""
    assert tells(Workers(NOW, tuple(others)), worker) is told


def test_its_words() -> None:
    """The message says how many wait, how long, what was imported and found, and what to do."""
    error = no_task(QUEUED[1], ["shop.tasks"], ["crawls", "charge"])
    assert str(error) == (
        '12 runs wait for task "crawl" (oldest 41 s), which this worker does not have. '
        "It imported shop.tasks and found: charge, crawls.\n"
        "  Perhaps crawls was meant: `tailrace runs --task crawl` lists them, `tailrace cancel` ends them.   "
        "Else: A task exists once its module is imported: add the one that has it to Tailrace(imports=[…]), "
        "or start a worker for it: tailrace worker MODULE:TAIL"
    )
    assert no_task(QUEUED[1], ["shop.tasks"], ["crawl"]).message == (
        '12 runs wait for task "crawl" (oldest 41 s), which --tasks leaves to other workers, and none that has it is alive.'
    )
    assert "Perhaps" not in str(no_task(QUEUED[1], ["shop.tasks"], ["charge"]))
    assert no_task(Queued("x", 1, 0), ["tasks"], []).message.startswith('1 run waits for task "x" (oldest 0 s)')
