"""What a worker asks before it begins: rates and limits of tasks, in batches, through lost answers and a server that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pytest
import redis
from prometheus_client import REGISTRY

from processor import Tailrace
from processor.client.session import Session
from processor.core.events import compose
from processor.core.json import dumps
from processor.core.rate import Limit, Rate
from processor.store.executing import Taken
from processor.store.rates import Asking
from processor.worker.gate import AWAY_MS, LOOK_AGAIN_MS, SOON_MS, Gate
from processor.worker.worker import Worker
from tests.support.servers import TestServer
from tests.support.until import until


class Job(NamedTuple):
    """As much of a task as the gate looks at."""

    name: str = "answer"
    rate: Rate | None = None
    limit: Limit | None = None


def taken(run: str, seen: str = "", **labels: str) -> Taken:
    payload = compose("run.queued", dumps({"task": "answer", "input": {}}), labels=labels)
    return Taken("answer", "1-1", run, "1-1", payload, seen)


@pytest.fixture
async def session(every_server: TestServer, namespace: str) -> AsyncIterator[Session]:
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        yield await tail.session()


class Clock:
    """The gate's own."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def gate_of(session: Any, *jobs: Job, clock: Clock | None = None) -> Gate:
    return Gate(session, {job.name: job for job in jobs}, now=clock or Clock())


async def ask(gate: Gate, job: Job, *runs: str) -> list[int]:
    return await gate.ask([(taken(run), job) for run in runs])


class Counting:
    """A session whose scripts count their calls, and fail when told to."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.scripts: Any = self
        self.calls: list[str] = []
        self.fails_before = self.fails_behind = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    async def call(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        self.calls.append(name)
        if self.fails_before:
            raise redis.ConnectionError("away")
        answer = await self.session.scripts.call(name, keys, args)
        if self.fails_behind:
            raise redis.ConnectionError("the answer was lost")
        return answer


async def is_free(session: Asking, key: str) -> bool:
    return not await session.redis.exists(session.keys.limit(key))


async def test_tasks_that_nothing_guards_pass(session: Session) -> None:
    """Who has neither rate nor limit asks nobody, alone or in a batch with others."""
    counting = Counting(session)
    gate = gate_of(counting, Job())
    assert not gate.guards_any
    assert await ask(gate, Job(), "a", "b") == [0, 0]
    assert counting.calls == []
    gate = gate_of(counting, Job(), Job("slow", rate=Rate("1/h")))
    assert gate.guards_any
    job = Job("slow", rate=Rate("1/h"))
    waits = await gate.ask([(taken("a"), Job()), (taken("b"), job), (taken("c"), job), (taken("d"), Job())])
    assert [wait == 0 for wait in waits] == [True, True, False, True]
    assert counting.calls == ["rate"]


async def test_rates_are_counted_by_label(session: Session) -> None:
    """Each value of the label has the rate for itself, and runs without it have it together."""
    job = Job(rate=Rate("1/h", by="user"))
    asked = [taken("a", user="ada"), taken("b", user="bob"), taken("c", user="ada"), taken("d"), taken("e", plan="x")]
    waits = await gate_of(session, job).ask([(one, job) for one in asked])
    assert [wait == 0 for wait in waits] == [True, True, False, True, False]


async def test_names_are_shared_between_tasks(session: Session) -> None:
    """Tasks whose rates or limits have one name are counted together."""
    jobs = [Job(name, Rate("1/h", name="model"), Limit(5, name="gpu")) for name in ("answer", "crawl")]
    waits = await gate_of(session, *jobs).ask([(taken(job.name), job) for job in jobs])
    assert [wait == 0 for wait in waits] == [True, False]


async def test_limits_hold_over_all_workers(session: Session) -> None:
    """So many at once have a place, whichever worker they are in, until it is given back."""
    job = Job(limit=Limit(2))
    one, other = gate_of(session, job), gate_of(session, job)
    assert await ask(one, job, "a") == [0]
    assert [wait == 0 for wait in await ask(other, job, "b", "c")] == [True, False]
    one.left("a")
    await one.close()
    assert await ask(other, job, "c") == [0]


async def test_a_refused_rate_keeps_no_place(session: Session) -> None:
    """Where the rate says no, the place that was taken for it is given back."""
    job = Job(rate=Rate("1/h"), limit=Limit(1))
    gate = gate_of(session, job)
    assert await ask(gate, job, "a") == [0]
    gate.left("a")
    assert (await ask(gate, job, "b"))[0] > 0
    await gate.close()
    assert await is_free(session, "task:answer")


async def test_a_full_limit_takes_no_turn(session: Session) -> None:
    """Where no place is free, the rate is not asked."""
    job = Job(rate=Rate("2/h"), limit=Limit(1))
    gate = gate_of(session, job)
    assert [wait == 0 for wait in await ask(gate, job, "a", "b", "c", "d")] == [True, False, False, False]
    gate.left("a")
    assert await ask(gate, job, "b") == [0]


async def test_each_is_told_when_the_first_may(session: Session) -> None:
    """All that are refused for the same reason hear the same, and how far apart they may begin can be asked."""
    clock = Clock()
    limited, rated = Job("limited", limit=Limit(1)), Job("rated", rate=Rate("60/h", burst=1))
    gate = gate_of(session, limited, rated, clock=clock)
    assert await ask(gate, limited, "a", "b", "c") == [0, SOON_MS, SOON_MS]
    assert gate.spacing_ms(taken("b"), limited) == SOON_MS
    first, second, third = await ask(gate, rated, "a", "b", "c")
    assert first == 0
    assert 59_000 < second <= third <= 60_000
    assert gate.spacing_ms(taken("b"), rated) == 60_000
    assert gate.spacing_ms(taken("b"), Job()) == 0


async def test_how_long_to_wait_for_a_place_is_learned(session: Session) -> None:
    """Places that are kept for a fifth of a second come free five times a second, or oftener where there are several."""
    clock = Clock()
    for at_most, wait in ((1, 200), (4, 50)):
        job = Job(f"limited-{at_most}", limit=Limit(at_most))
        gate = gate_of(session, job, clock=clock)
        for number in range(at_most):
            assert await ask(gate, job, f"short-{number}") == [0]
        clock.seconds += 0.2
        for number in range(at_most):
            gate.left(f"short-{number}")
        assert await ask(gate, job, *map(str, range(at_most + 2))) == [*[0] * at_most, wait, wait]


async def test_places_kept_for_long_are_asked_for_twice_a_second(session: Session) -> None:
    """However long places are kept, one may come free any time: a run's may end, a process may be stopped."""
    clock = Clock()
    job = Job(limit=Limit(1))
    gate = gate_of(session, job, clock=clock)
    assert await ask(gate, job, "long") == [0]
    clock.seconds += 3600
    assert await ask(gate, job, "b") == [LOOK_AGAIN_MS]


async def test_what_is_put_off_is_counted(session: Session) -> None:
    """By what put it off: the rate, the limit, or a server that did not answer."""

    def count(reason: str) -> float:
        return REGISTRY.get_sample_value("tailrace_put_off_total", {"reason": reason}) or 0

    before = {reason: count(reason) for reason in ("rate", "limit", "away")}
    counting = Counting(session)
    rated, limited = Job("rated", rate=Rate("1/h")), Job("limited", limit=Limit(1))
    gate = gate_of(counting, rated, limited)
    await ask(gate, rated, "a", "b")
    await ask(gate, limited, "c", "d", "e")
    counting.fails_before = True
    await ask(gate, rated, "f")
    assert {reason: count(reason) - before[reason] for reason in before} == {"rate": 1, "limit": 2, "away": 1}


async def test_what_was_learned_is_forgotten(session: Session) -> None:
    """Keys hold values of labels; of those that nobody holds a place of nothing is kept."""
    job = Job(limit=Limit(1, by="user"))
    gate = gate_of(session, job)
    for user in ("ada", "bob"):
        await gate.ask([(taken(user, user=user), job)])
        gate.left(user)
    await gate.ask([(taken("c", user="ada"), job)])
    assert len(gate._kept) == 2
    await gate.renew()
    assert list(gate._kept) == ["task:answer:user=ada"]


async def test_leaving_goes_with_what_comes(session: Session) -> None:
    """Places given back in one turn of the loop go in one call, and are free for those who ask in it."""
    counting = Counting(session)
    job = Job(limit=Limit(2))
    gate = gate_of(counting, job)
    assert await ask(gate, job, "a", "b") == [0, 0]
    gate.left("a")
    gate.left("b")
    gate.left("nobody")
    assert await ask(gate, job, "c", "d") == [0, 0]
    await gate.close()
    assert counting.calls == ["limit", "limit"]


async def test_a_run_taken_over_brings_its_place(session: Session) -> None:
    """A run that its worker lost begins at another one although its old place has not passed yet."""
    job = Job(limit=Limit(1))
    dead, gate = gate_of(session, job), gate_of(session, job)
    assert await ask(dead, job, "a") == [0]
    assert await gate.ask([(taken("a", seen="1-abc"), job)]) == [0]
    dead.left("a")
    await dead.close()
    assert await ask(dead, job, "b") != [0]


async def test_while_the_server_is_away_nobody_begins(session: Session) -> None:
    """Without an answer those who need one are told to come back, others begin."""
    counting = Counting(session)
    counting.fails_before = True
    job = Job("rated", rate=Rate("5/s"), limit=Limit(1))
    gate = gate_of(counting, job)
    assert await gate.ask([(taken("a"), job), (taken("b"), Job())]) == [AWAY_MS, 0]
    counting.fails_before = False
    assert await ask(gate, job, "a") == [0]


async def test_a_place_whose_answer_was_lost_is_given_back(session: Session) -> None:
    """The run may come back anywhere, so a place that was perhaps taken is not kept for it."""
    counting = Counting(session)
    job = Job(limit=Limit(1))
    gate = gate_of(counting, job)
    counting.fails_behind = True
    assert await ask(gate, job, "a") == [AWAY_MS]
    await gate.close()
    counting.fails_behind = False
    await gate.renew()
    assert await ask(gate_of(session, job), job, "b") == [0]


async def test_renewing_keeps_places(server: TestServer, namespace: str) -> None:
    """A place is held for as long as its function runs, many times longer than a place lasts by itself."""
    from processor.core.settings import Settings

    settings = Settings(redis_url=server.url, namespace=namespace, visibility_seconds=0.2)
    job = Job(limit=Limit(1))
    async with Tailrace(settings=settings) as tail:
        session = await tail.session()
        held, other = gate_of(session, job), gate_of(session, job)
        assert await ask(held, job, "a") == [0]
        end = asyncio.get_running_loop().time() + 0.6  # three terms
        while asyncio.get_running_loop().time() < end:
            await held.renew()
            assert await ask(other, job, "b") != [0]

        async def taken_by_b() -> bool:
            return await ask(other, job, "b") == [0]

        await until(taken_by_b, "the place passed, since nobody renews it", deadline=5)


async def test_workers_keep_to_limit_and_rate(server: TestServer, namespace: str) -> None:
    """Two workers with many places run at most as many at once as the limit says, all in the end, no more often than the rate."""
    tail = Tailrace(server.url, namespace=namespace)
    running, most, began = 0, 0, []

    @tail.task(limit=3, rate=Rate("20/s", burst=4))
    async def answer(run: Any, number: int) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.03)
        running -= 1

    async with tail:
        for number in range(16):
            await answer.start(number)
        before = asyncio.get_running_loop().time()
        async with asyncio.timeout(30):
            await asyncio.gather(*(Worker(tail, consumer=f"w{n}").run(burst=True) for n in range(2)))
        session = await tail.session()
        assert await is_free(session, "task:answer")
    assert len(began) == 16
    assert most <= 3
    assert began[-1] - before >= (16 - 4) / 20 - 0.002  # the server's clock has whole milliseconds
