"""The lobby: what is near its turn waits in the process, begins as soon as it may, and goes to others when it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from processor import Tailrace
from processor.client.session import Session
from processor.core.rate import Limit, Rate
from processor.testing import sandbox
from processor.worker import lobby as module
from processor.worker.gate import Gate
from processor.worker.lobby import MOST_APART_MS, NEAR_MS, Lobby
from tests.processor.worker.conftest import working
from tests.processor.worker.test_gate import Job, taken
from tests.support.servers import TestServer
from tests.support.until import until

ONE = Job(limit=Limit(1))


class Guest:
    """As much of an execution as the lobby looks at."""

    def __init__(self, gate: Gate, run: str, task: Job = ONE, *, is_suspect: bool = False) -> None:
        self.gate, self.taken, self.task, self.is_suspect = gate, taken(run), task, is_suspect
        self.given_back: list[int | None] = []

    def give_back(self, delay_ms: int | None = None) -> None:
        self.gate.left(self.taken.run)
        self.given_back.append(delay_ms)


class Hall:
    """A gate and its lobby."""

    def __init__(self, session: Any, *, places: int = 10) -> None:
        self.gate = Gate(session, {"answer": ONE})
        self.began: list[str] = []
        self.lobby: Lobby[Guest] = Lobby(self.gate, self._begin, places=places, draw=lambda: 0.5)

    async def _begin(self, guests: list[Guest]) -> None:
        self.began += [guest.taken.run for guest in guests]

    def guest(self, run: str, task: Job = ONE, **more: bool) -> Guest:
        return Guest(self.gate, run, task, **more)

    def wait(self, run: str, wait_ms: int = 900, task: Job = ONE, **more: bool) -> Guest:
        guest = self.guest(run, task, **more)
        self.lobby.wait(guest, wait_ms)
        return guest

    async def ask(self, run: str, task: Job = ONE) -> int:
        return (await self.gate.ask([(taken(run), task)]))[0]


@pytest.fixture
async def session(server: TestServer, namespace: str) -> AsyncIterator[Session]:
    async with Tailrace(server.url, namespace=namespace) as tail:
        yield await tail.session()


@pytest.fixture
async def hall(session: Session) -> AsyncIterator[Hall]:
    hall = Hall(session)
    yield hall
    await hall.lobby.close()
    await hall.gate.close()


async def test_who_waits_begins_when_a_place_is_given_back(hall: Hall) -> None:
    """At once, long before it would have asked again; the first that came is the first that begins."""
    assert await hall.ask("first") == 0
    begin = asyncio.get_running_loop().time()
    for run in "abc":
        hall.wait(run)
    assert len(hall.lobby) == 3
    for count, before in enumerate(("first", "a", "b"), 1):
        hall.gate.left(before)
        await until(lambda count=count: len(hall.began) == count, f"{count} began")  # type: ignore[misc]
    assert asyncio.get_running_loop().time() - begin < 0.9
    assert hall.began == ["a", "b", "c"]
    assert len(hall.lobby) == 0


async def test_who_waits_for_another_limit_is_left_alone(hall: Hall) -> None:
    """A place of one limit wakes nobody who waits for another one."""
    other = Job("other", limit=Limit(1))
    assert [await hall.ask("a"), await hall.ask("b", other)] == [0, 0]
    hall.wait("c", task=other)
    hall.wait("d")
    hall.gate.left("a")
    await until(lambda: hall.began == ["d"], "d began")
    assert len(hall.lobby) == 1


async def test_turns_are_waited_for(hall: Hall) -> None:
    """Those who wait for a rate begin one after the other, as the rate says."""
    job = Job(rate=Rate("50/s", burst=1))
    begin = asyncio.get_running_loop().time()
    for run in "abcdef":
        wait = await hall.ask(run, job)
        if wait:
            hall.wait(run, wait, job)
    await until(lambda: len(hall.began) == 5, "all began")
    assert hall.began == ["b", "c", "d", "e", "f"]
    assert asyncio.get_running_loop().time() - begin >= 5 / 50 - 0.002  # the server's clock has whole milliseconds


async def test_who_is_far_from_its_turn_is_put_off(session: Session) -> None:
    """So is whoever comes when the lobby is full, and what may end the process."""
    hall = Hall(session, places=2)
    assert await hall.ask("first") == 0
    assert [hall.wait(name, wait).given_back for name, wait in (("far", NEAR_MS + 1), ("near", NEAR_MS))] == [
        [1001],
        [],
    ]
    assert hall.wait("suspect", 1, is_suspect=True).given_back
    assert hall.wait("also near", 1).given_back == []
    assert hall.wait("too many", 1).given_back
    await hall.lobby.close()
    assert hall.wait("late", 1).given_back


async def test_near_is_who_is_near_behind_the_others(hall: Hall) -> None:
    """At a rate of five a second, five begin within the next second: the others are put off."""
    job = Job(rate=Rate("5/s", burst=1))
    given_back = [hall.wait(run, 200, job).given_back for run in "abcdefg"]
    assert given_back == [[], [], [], [], [], [200], [400]]


async def test_those_who_are_put_off_come_back_one_behind_the_other(session: Session) -> None:
    """As far apart as they may begin, but no more than half a minute behind the first: one may be cancelled any time."""
    hall = Hall(session, places=0)
    job = Job(rate=Rate("10/min", burst=1))
    delays = [hall.wait(str(number), 500, job).given_back[0] for number in range(8)]
    assert delays == [500, 6_500, 12_500, 18_500, 24_500, 30_500, *[500 + MOST_APART_MS // 2] * 2]
    other = Job("other", rate=Rate("10/min", burst=1))
    assert hall.wait("x", 500, other).given_back == [500]


async def test_lines_are_forgotten(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines have values of labels in their names; of those that nobody comes back to nothing is kept."""
    monkeypatch.setattr(module, "MANY_LINES", 10)
    hall = Hall(session, places=0)
    for number in range(100):
        hall.wait(str(number), 1, Job(f"task-{number}", rate=Rate("5/s")))
        await until(lambda: max(map(max, hall.lobby._back.values())) < hall.lobby._now(), "it came back")
    assert len(hall.lobby._back) <= 11


async def test_nobody_stays_for_ever(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited in vain is put off, so that others may come near."""
    monkeypatch.setattr(module, "STAY_SECONDS", 0.1)
    assert await hall.ask("first") == 0
    guest = hall.wait("a", 1)
    await until(lambda: guest.given_back, "it was put off")
    (delay,) = guest.given_back
    assert delay
    assert len(hall.lobby) == 0


async def test_all_go_when_the_process_ends(hall: Hall) -> None:
    """Other workers get them at once."""
    assert await hall.ask("first") == 0
    guests = [hall.wait(run) for run in "abc"]
    await hall.lobby.close()
    assert [guest.given_back for guest in guests] == [[None]] * 3
    assert hall.began == []


class Slow:
    """A session whose next answer waits until it is let through."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.scripts: Any = self
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    async def call(self, name: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
        answer = await self.session.scripts.call(name, keys, args)
        self.asked.set()
        await self.answer.wait()
        return answer


async def test_who_is_asking_while_all_go_goes_too(session: Session) -> None:
    """Its place, which the server had given, is given back with it."""
    slow = Slow(session)
    hall = Hall(slow)
    guest = hall.wait("a", 0)
    await slow.asked.wait()
    hall.lobby.give_back()
    slow.answer.set()
    await until(lambda: guest.given_back == [None], "it was given back")
    await hall.lobby.close()
    await hall.gate.close()
    assert hall.began == []
    assert not await session.redis.exists(session.keys.limit("task:answer"))


async def test_a_server_that_does_not_answer_keeps_nobody(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for an answer that does not come: whoever asks then is claimed by another worker."""
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    slow = Slow(session)
    hall = Hall(slow)
    guest = hall.wait("a", 0)
    await slow.asked.wait()
    async with asyncio.timeout(5):
        await hall.lobby.close()
    assert (guest.given_back, hall.began) == ([], [])


async def test_short_executions_use_all_places(server: TestServer, namespace: str) -> None:
    """Three places for executions of 20 ms: 60 of them take less than a second or two, not the half minute of 20 rounds through
    the server's list of what is due."""
    tail = Tailrace(server.url, namespace=namespace)
    running = most = 0

    @tail.task(limit=3)
    async def short(run: Any, number: int) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.02)
        running -= 1

    async with tail:
        runs = [await short.start(number) for number in range(60)]
        async with working(tail), asyncio.timeout(20):
            begin = asyncio.get_running_loop().time()
            await asyncio.gather(*(run.result() for run in runs))
            took = asyncio.get_running_loop().time() - begin
    assert most == 3
    assert took < 5


async def test_in_a_sandbox_time_is_virtual() -> None:
    """What a rate or a limit refuses there waits for time to pass, and takes none."""
    tail = Tailrace("redis://localhost:1")
    began: list[int] = []

    @tail.task(rate=Rate("2/min", burst=1))
    async def seldom(run: Any, number: int) -> None:
        began.append(number)

    async with sandbox(tail) as box:
        for number in range(3):
            await seldom.start(number)
        await box.drain()
        assert len(began) == 1
        await box.advance(29)
        assert len(began) == 1
        await box.advance(2)
        assert len(began) == 2
        await box.advance(30)
        assert sorted(began) == [0, 1, 2]
