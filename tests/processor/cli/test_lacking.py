"""Which tasks a worker names as missing, and which of several workers does."""

from __future__ import annotations

from socket import gethostname

import pytest

from processor.cli.lacking import lacking, no_group, no_task, tells
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.worker import Workers, WorkerState
from processor.store.lag import Queued
from processor.store.standings import Group, Position, Standing
from processor.worker.worker import Worker

NOW = 1_795_506_276_265
QUEUED = [Queued("answer", 2, 1000), Queued("crawl", 12, 41_000)]


@pytest.fixture
async def worker() -> Worker:
    tail = Tailrace()

    @tail.task
    async def answer(run: Run) -> None: ...

    return Worker(tail, consumer="b")


def other(
    consumer: str, *tasks: str, groups: tuple[str, ...] = (), host: str = "", stopped: int | None = None
) -> WorkerState:
    return WorkerState(
        consumer=consumer,
        host=host or gethostname(),
        pid=1,
        tasks=tasks or ("answer", "tailrace.flow"),  # every worker has flows
        groups=groups,
        version="1",
        seen=NOW,
        stopped=stopped,
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
        ([other("a", groups=("audit",)), other("b")], True),
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


def test_its_words_for_a_group() -> None:
    """The message says how many events wait, how long, and what to do; a group that --groups leaves out is told as such."""
    position = Position(0, lag=11, pending=1, oldest=NOW - 41_000)
    standing = Standing(NOW, Group("audit"), [], None, [position])
    error = no_group(standing, ["stock"])
    assert error.message == '12 events wait for group "audit" (oldest 41 s), which no live worker has.'
    assert error.remedy.endswith("tailrace groups delete audit")
    assert "leaves it to other workers" in no_group(standing, ["audit"]).message
    one = Standing(NOW, Group("audit"), [], None, [Position(0, lag=1)])
    assert no_group(one, []).message.startswith("1 event waits for group")
