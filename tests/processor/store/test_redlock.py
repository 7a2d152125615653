from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import hypothesis
import pytest
from hypothesis import strategies as st

from processor.store.redlock import Held, LockServer, RedLock, Vote, lock_servers
from tests.processor.store.lock_servers import LockDaemons, Party, running_lock_servers
from tests.processor.store.stage import LIMITS
from tests.support.program import ROOT
from tests.support.servers import TestServer
from tests.support.until import until

TTL_MS = 400
sizes = pytest.mark.parametrize("count", [1, 3, 5])

pytestmark = pytest.mark.holds_loop  # servers are started and asked from the test's own thread


@pytest.fixture(scope="module")
def _daemons() -> Iterator[LockDaemons]:
    with running_lock_servers(5) as daemons:
        yield daemons


@pytest.fixture
async def daemons(_daemons: LockDaemons) -> AsyncIterator[LockDaemons]:
    """Five servers, empty, running for longer than a TTL."""
    _daemons.heal()
    await _daemons.is_old(range(5), TTL_MS)
    yield _daemons
    _daemons.heal()


@asynccontextmanager
async def parties(
    daemons: LockDaemons, count: int, number: int, *, ttl_ms: int = TTL_MS, max_extensions: int = 100
) -> AsyncIterator[list[Party]]:
    """So many candidates on the first `count` servers."""
    found = [Party(daemons.urls[:count], "lock", ttl_ms=ttl_ms, max_extensions=max_extensions) for _ in range(number)]
    try:
        yield found
    finally:
        for party in found:
            await party.close()


async def won(party: Party) -> Held:
    held = await party.lock.acquire()
    assert held is not None
    return held


# -- one after the other


@sizes
async def test_one_holder(daemons: LockDaemons, count: int) -> None:
    """Who has it keeps others out; given back, it is free at once and no key is left."""
    async with parties(daemons, count, 2) as (one, other):
        held = await won(one)
        assert await other.lock.acquire() is None
        assert all(daemons.keys(number) == [b"lock"] for number in range(count))
        await one.lock.release(held)
        assert not any(daemons.keys(number) for number in range(count))
        await won(other)


@sizes
async def test_minority_away(daemons: LockDaemons, count: int) -> None:
    """With a minority killed or frozen it is won in no more than the servers' timeout; with a majority away never."""
    quorum = count // 2 + 1
    for number in range(count - quorum):
        (daemons.kill if number % 2 else daemons.freeze)(number)
    async with parties(daemons, count, 1) as (one,):
        held = await won(one)
        assert one.lock.seconds_left(held) > TTL_MS / 1000 * 0.5
        await one.lock.release(held)
        daemons.freeze(count - quorum)
        assert await one.lock.acquire() is None
        assert not any(daemons.keys(number) for number in range(count - quorum + 1, count))


async def test_what_was_won_without_a_majority_is_given_back(daemons: LockDaemons) -> None:
    """Two candidates who split three servers between them leave no key behind, and either can win the next try."""
    async with parties(daemons, 3, 2) as (one, other):
        with daemons.client(0) as client:
            client.set("lock", "other's", px=60_000)
        daemons.freeze(1)
        assert await one.lock.acquire() is None
        assert daemons.keys(2) == []
        daemons.thaw(1)
        with daemons.client(0) as client:
            client.delete("lock")
        await until(lambda: daemons.keys(1) == [], "what the frozen server took is released or has expired", 2)
        await won(other)


async def test_a_lost_answer_is_released_and_nothing_sent_twice(daemons: LockDaemons) -> None:
    """A server that took the lock and could not say so is told to let it go; each command was sent once."""
    async with parties(daemons, 1, 1, ttl_ms=30_000) as (one,):
        await one.servers[0].extend("lock", "nobody's")  # the connection is open: what is sent will be read
        daemons.freeze(0)
        assert await one.lock.acquire() is None
        daemons.thaw(0)
        with daemons.client(0) as client:
            await until(lambda: client.get("lock") is not None, "the server read what was sent to it")
            assert await one.lock.acquire() is None  # it has not run for a TTL
            assert client.info("commandstats")["cmdstat_set"]["calls"] == 2
            assert client.keys("*") == [], "the first and the second are released, long before they expire"


async def test_cancelled_in_the_middle(daemons: LockDaemons) -> None:
    """A candidate that is cancelled while it asks leaves no key behind."""
    async with parties(daemons, 3, 1, ttl_ms=30_000) as (one,):
        await one.lock.acquire()
        for number in range(3):
            with daemons.client(number) as client:
                client.flushall()
        daemons.freeze(2)
        trying = asyncio.create_task(one.lock.acquire())
        await until(lambda: daemons.keys(0) and daemons.keys(1), "two servers have answered")
        trying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trying
        assert (daemons.keys(0), daemons.keys(1)) == ([], [])


# -- validity


class _Scripted(LockServer):
    """Answers as it is told, after so long on the test's clock."""

    def __init__(self, answers: dict[str, Vote], clock: list[float], seconds: float) -> None:
        super().__init__("redis://127.0.0.1:1", LIMITS, ttl_ms=10_000)
        self.answers, self.now, self.seconds = answers, clock, seconds
        self.asked: list[str] = []

    async def _answer(self, question: str) -> Vote:
        self.asked.append(question)
        self.now[0] += self.seconds
        return self.answers.get(question, Vote("yes", 0))

    async def take(self, key: str, token: str) -> Vote:
        return await self._answer("take")

    async def extend(self, key: str, token: str) -> Vote:
        return await self._answer("extend")

    async def release(self, key: str, token: str) -> Vote:
        return await self._answer("release")


def scripted(now: list[float], seconds: float, *answers: dict[str, Vote]) -> tuple[RedLock, list[_Scripted]]:
    servers = [_Scripted(one, now, seconds) for one in answers]
    return RedLock(servers, "lock", clock=lambda: now[0], draw=lambda: 0.5), servers


async def test_validity() -> None:
    """A lock is valid for its TTL without the time that winning it took, 1 % and 2 ms."""
    now = [100.0]
    lock, _ = scripted(now, 0.5, {}, {}, {})
    held = await lock.acquire()
    assert held is not None
    assert lock.seconds_left(held) == pytest.approx(10 - 1.5 - 0.1 - 0.002)
    longer = await lock.extend(held)
    assert longer is not None
    assert lock.seconds_left(longer) == pytest.approx(10 - 1.5 - 0.1 - 0.002)


async def test_too_slow() -> None:
    """A majority that took longer to ask than the lock is valid is none; it is given back on all servers."""
    lock, servers = scripted([0.0], 3.4, {}, {}, {})
    assert await lock.acquire() is None
    assert [server.asked for server in servers] == [["take", "release"]] * 3


async def test_release_where_it_may_be() -> None:
    """Not won: released wherever the answer was yes or none, not where the server never took it."""
    no, silent = {"take": Vote("no", 700)}, {"take": Vote("silent")}
    lock, servers = scripted([0.0], 0, no, silent, {})
    assert await lock.acquire() is None
    assert [server.asked for server in servers] == [["take"], ["take", "release"], ["take", "release"]]
    assert lock.retry_seconds() == pytest.approx(0.7 + 0.25)  # the second of the three will be free then


async def test_extended_too_late() -> None:
    """A lock whose validity has ended is not extended. One that too few extended may be tried again, one that too many refused
    is lost."""
    now = [0.0]
    lock, servers = scripted(now, 0, {}, {"extend": Vote("no", 0)}, {"extend": Vote("silent")})
    held = await lock.acquire()
    assert held is not None
    assert await lock.extend(held) is held
    servers[1].answers = {}
    longer = await lock.extend(held)
    assert longer is not None
    assert longer.extensions == 1
    servers[1].answers = servers[2].answers = {"extend": Vote("no", 0)}
    assert await lock.extend(longer) is None
    servers[1].answers = servers[2].answers = {}
    now[0] += 9.9
    asked = len(servers[0].asked)
    assert await lock.extend(held) is None
    assert len(servers[0].asked) == asked


@sizes
async def test_extend(daemons: LockDaemons, count: int) -> None:
    """Extended it outlives its TTL, as often as is allowed and no more; nobody else gets it meanwhile."""
    async with parties(daemons, count, 2, max_extensions=4) as (one, other):
        held = await won(one)
        for _ in range(4):
            await asyncio.sleep(TTL_MS / 2000)
            longer = await one.lock.extend(held)
            assert longer is not None
            held = longer
            assert await other.lock.acquire() is None
        assert await one.lock.extend(held) is None
        assert one.lock.seconds_left(held) > 0


async def test_somebody_elses_is_not_touched(daemons: LockDaemons) -> None:
    """Who lost the lock can neither extend nor release what another has since."""
    async with parties(daemons, 3, 2) as (one, other):
        held = await won(one)
        for number in range(3):
            with daemons.client(number) as client:
                client.delete("lock")
        theirs = await won(other)
        assert await one.lock.extend(held) is None
        await one.lock.release(held)
        assert await other.lock.extend(theirs) is not None


def test_how_many_servers() -> None:
    """One to five."""
    with pytest.raises(ValueError, match="6 lock servers"):
        lock_servers(["redis://a"] * 6, LIMITS)
    with pytest.raises(ValueError, match="0 lock servers"):
        lock_servers([], LIMITS)


# -- what servers do


@sizes
async def test_a_restarted_server_does_not_vote(daemons: LockDaemons, count: int) -> None:
    """Servers that forgot the lock in a restart, all of them one after the other, elect nobody before it has ended."""
    async with parties(daemons, count, 2, ttl_ms=1500) as (one, other):
        await daemons.is_old(range(count), 1500)
        held = await won(one)
        for number in range(count):
            daemons.restart(number)
        with anyio.fail_after(10):
            assert await other.lock.wait(asyncio.Event()) is not None
        assert one.lock.seconds_left(held) <= 0


@sizes
async def test_another_is_elected_within_the_ttl(daemons: LockDaemons, count: int) -> None:
    """A holder that dies is followed by another within the TTL, and the jitter by which candidates differ."""
    async with parties(daemons, count, 3) as (one, *others):
        await won(one)
        died = time.monotonic()
        stop = asyncio.Event()
        waiting = [asyncio.create_task(other.lock.wait(stop)) for other in others]
        with anyio.fail_after(5):
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        took = time.monotonic() - died
        stop.set()
        assert [held is not None for held in await asyncio.gather(*waiting)].count(True) == 1
        assert TTL_MS / 1000 * 0.98 <= took <= TTL_MS / 1000 * 1.3, f"{took:.3f} s"
        assert len(done) == 1


async def test_given_back_early_is_noticed(daemons: LockDaemons) -> None:
    """Who waits finds a released lock long before it would have expired."""
    async with parties(daemons, 3, 2, ttl_ms=4000) as (one, other):
        await daemons.is_old(range(3), 4000)
        held = await won(one)
        waiting = asyncio.create_task(other.lock.wait(asyncio.Event()))
        await until(lambda: other.lock.retry_seconds() > 0.3, "the other has tried once")
        await one.lock.release(held)
        with anyio.fail_after(3):
            assert await waiting is not None


@pytest.mark.parametrize("rights", ["-info", "-@dangerous"])
async def test_a_server_that_does_not_tell_its_age(daemons: LockDaemons, rights: str) -> None:
    """A lock server whose user may not ask for INFO is taken at its word."""
    with daemons.client(0) as client:
        client.execute_command("ACL", "SETUSER", "locker", "on", ">pw", "~lock", "+@all", rights)
        try:
            party = Party([daemons.urls[0].replace("://", "://locker:pw@")], "lock", ttl_ms=60_000)
            assert await party.lock.acquire() is not None
            await party.close()
        finally:
            client.execute_command("ACL", "DELUSER", "locker")


async def test_rights_of_the_deploy_page_suffice(daemons: LockDaemons) -> None:
    """A user made as docs/deploy.md says can win, extend and release, and is asked for the server's age."""
    (rights,) = re.findall(r"`(~tr:[{]default[}]:lock:[*] [^`]+)`", (ROOT / "docs/deploy.md").read_text())
    with daemons.client(0) as client:
        client.execute_command("ACL", "LOG", "RESET")
        client.execute_command("ACL", "SETUSER", "locker", "on", ">pw", *rights.split())
        try:
            party = Party([daemons.urls[0].replace("://", "://locker:pw@")], "tr:{default}:lock:x", ttl_ms=TTL_MS)
            held = await won(party)
            longer = await party.lock.extend(held)
            assert longer is not None
            await party.lock.release(longer)
            assert daemons.keys(0) == []
            assert client.execute_command("ACL", "LOG") == []
            await party.close()
        finally:
            client.execute_command("ACL", "DELUSER", "locker")


async def test_on_fakeredis(every_server: TestServer) -> None:
    """On the sandbox's server it works as on real ones."""
    servers = lock_servers([every_server.url], LIMITS, ttl_ms=50, shebang=every_server.kind != "fake")
    lock = RedLock(servers, "tr:{t}:lock:x")
    with anyio.fail_after(5):
        held = await lock.wait(asyncio.Event())
    assert held is not None
    assert await lock.extend(held) is not None
    await lock.release(held)
    await servers[0].close()


steps = st.lists(
    st.tuples(st.sampled_from(["take", "extend", "release", "expire"]), st.sampled_from(["a", "b", "c"])), max_size=30
)


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=60)
@hypothesis.given(steps)
def test_one_server_as_the_model(every_server: TestServer, steps: list[tuple[str, str]]) -> None:
    """Taken when free, extended and released by its own token alone: any sequence ends as with one variable for the owner."""

    async def play() -> None:
        (server,) = lock_servers([every_server.url], LIMITS, ttl_ms=60_000, shebang=every_server.kind != "fake")
        server._remembers = taken_at_its_word  # type: ignore[method-assign]
        owner: str | None = None
        with every_server.client() as client:
            client.delete("lock")
            for step, who in steps:
                if step == "expire":
                    client.delete("lock")
                    owner = None
                    continue
                call = {"take": server.take, "extend": server.extend, "release": server.release}[step]
                vote = await call("lock", who)
                should = owner is None if step == "take" else owner == who
                assert vote.answer == ("yes" if should else "no"), (step, who, owner)
                if should:
                    owner = None if step == "release" else who
                assert client.get("lock") == (owner.encode() if owner else None)
                assert owner is None or 59_000 < client.pttl("lock") <= 60_000
            client.delete("lock")
        await server.close()

    asyncio.run(play())


async def taken_at_its_word() -> bool:
    return True
