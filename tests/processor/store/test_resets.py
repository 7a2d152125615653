"""Groups that go on elsewhere, and groups that go: in one step a partition, whoever reads meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis

from processor import Tailrace
from processor.core.settings import Settings
from processor.store.delayed import promote_all
from processor.store.members import forget_members, recorded_groups
from processor.store.reacting import Delivery, Lease, ReactUnit, react_command
from processor.store.resets import Place, delete_group, reset_group
from processor.store.standings import read_groups
from tests.processor.store.logside import LogSide, letter
from tests.support.servers import TestServer

START, END = Place("start"), Place("end")


@pytest.fixture
async def side(every_server: TestServer, namespace: str) -> AsyncIterator[LogSide]:
    settings = Settings(redis_url=every_server.url, namespace=namespace, partitions=2)
    async with Tailrace(settings=settings) as tail:
        side = LogSide(every_server, await tail.session())
        yield side
        side.close()


async def react(side: LogSide, group: str, entry: str, verb: str = "done", lease: Lease | None = None) -> str:
    """What a member that still has the entry of run `a` is answered."""
    unit = ReactUnit([Delivery(side.keys.number("a"), entry, "a", "1-1", b'"type":"usage"')], verb)  # type: ignore[arg-type]
    scripts = side.session.scripts
    script = scripts.named("react")
    more = [] if lease is None else [lease]
    command = react_command(script, scripts.limits, side.keys, side.keys.number("a"), group, [unit], *more)
    [answer] = await scripts.send(script, command)
    return str(answer.decode())


async def reset(side: LogSide, group: str, place: Place) -> tuple[int, int]:
    """In the partition of run `a`: how many entries were acknowledged, how many retries dropped."""
    [moved] = await reset_group(side.session, group, place, [side.keys.number("a")])
    return moved.acknowledged, moved.dropped


# -- reset


async def test_to_the_start(side: LogSide) -> None:
    """The group is given again all that is there; nothing is pending and no retry waits."""
    await side.bind("audit")
    await side.emit("a", 8)
    given = side.read("audit", "a", 6)
    side.fail("audit", "a", given[0], due=10**15)
    side.fail("audit", "a", given[1], due=10**15)
    side.ack("audit", "a", given[2:4])
    assert await reset(side, "audit", START) == (2, 2)
    assert await side.figures("audit", "a") == (8, 0, 0)
    assert side.client.zcard(side.part("a").delayed) == side.client.hlen(side.part("a").delayed_body) == 0
    assert side.read("audit", "a", 100) == side.entries("a")
    assert await side.figures("audit", "a") == (0, 8, 0)


async def test_to_the_end(side: LogSide) -> None:
    """What is in the log is over for the group; the next event is its first."""
    await side.bind("audit")
    await side.emit("a", 5)
    side.read("audit", "a", 2)
    assert await reset(side, "audit", END) == (2, 0)
    assert await side.figures("audit", "a") == (0, 0, 0)
    assert side.read("audit", "a", 10) == []
    await side.emit("a", 1)
    assert await side.figures("audit", "a") == (1, 0, 0)
    assert side.read("audit", "a", 10) == side.entries("a")[-1:]


@pytest.mark.parametrize("at", [0, 1, 4])
async def test_to_an_entry(side: LogSide, at: int) -> None:
    """The entry named is the next one; the figures are right at once."""
    await side.bind("audit")
    await side.emit("a", 3)
    await side.emit("a", 2)
    side.ack("audit", "a", side.read("audit", "a", 10))
    entries = side.entries("a")
    await reset(side, "audit", Place(entries[at]))
    assert await side.figures("audit", "a") == (5 - at, 0, 0)
    assert side.read("audit", "a", 10) == entries[at:]


async def test_to_a_time(side: LogSide) -> None:
    """The first entry of that time or later is the next one; later than all means the end."""
    await side.bind("audit")
    log = side.part("a").log
    for number, ms in enumerate((1000, 2000, 2000, 3000), 1):
        side.client.xadd(log, {"r": "a", "i": "1-1", "e": "{}"}, id=f"{ms}-{number}")
    side.client.hset(side.part("a").meta, "logged", 4)
    for ms, left in ((500, 4), (1000, 4), (1001, 3), (2000, 3), (2001, 1), (3001, 0)):
        await reset(side, "audit", Place.at(ms))
        assert await side.figures("audit", "a") == (left, 0, 0), ms
        given = side.read("audit", "a", 10)
        assert len(given) == left, ms


async def test_where_entries_were_deleted(side: LogSide) -> None:
    """An entry that is gone stands for the first one behind it, and only what is there counts from the start."""
    await side.bind("audit")
    await side.emit("a", 6)
    entries = side.entries("a")
    side.client.xdel(side.part("a").log, *entries[:3])
    await reset(side, "audit", Place(entries[1]))
    assert await side.figures("audit", "a") == (3, 0, 0)
    assert side.read("audit", "a", 10) == entries[3:]


async def test_an_empty_log(side: LogSide) -> None:
    """There is nothing to go back to, and nothing goes wrong."""
    await side.bind("audit")
    for place in (START, END, Place("5-1")):
        assert await reset(side, "audit", place) == (0, 0)
        assert await side.figures("audit", "a") == (0, 0, 0)
    await side.emit("a", 2)
    side.ack("audit", "a", side.read("audit", "a", 2))
    await side.session.scripts.trim(side.part("a"))
    await reset(side, "audit", START)
    assert await side.figures("audit", "a") == (0, 0, 0)
    await side.emit("a", 1)
    assert len(side.read("audit", "a", 10)) == 1


@pytest.mark.holds_loop  # fakeredis takes a second for the entries
async def test_many_are_in_hands(side: LogSide) -> None:
    """However many entries are pending and retries wait, one step ends them all."""
    await side.bind("audit")
    await side.emit("a", 2600)
    given = side.read("audit", "a", 2500)
    for entry in given[:1100]:
        side.fail("audit", "a", entry, due=7)
    assert await reset(side, "audit", START) == (1400, 1100)
    assert await side.figures("audit", "a") == (2600, 0, 0)


async def test_others_keep_what_they_have(side: LogSide) -> None:
    """Another group's entries and retries, runs that wait, and other partitions stay as they are."""
    await side.bind("audit")
    await side.bind("audit.2")
    await side.emit("a", 4)
    await side.emit("b", 4)
    given = side.read("audit.2", "a", 3)
    side.fail("audit.2", "a", given[0], due=7)
    side.client.zadd(side.part("a").delayed, {"audit": 1})
    side.ack("audit", "b", side.read("audit", "b", 4))
    side.read("audit", "a", 4)
    await reset(side, "audit", START)
    assert await side.figures("audit.2", "a") == (1, 2, 1)
    assert await side.figures("audit", "b") == (0, 0, 0)
    assert side.client.zcard(side.part("a").delayed) == 2


async def test_a_cut_is_over(side: LogSide) -> None:
    """Who goes on elsewhere is told of no cut any more."""
    await side.bind("audit")
    await side.emit("a", 4)
    side.client.hset(side.part("a").meta, "cut:audit", side.entries("a")[2])
    await reset(side, "audit", END)
    assert (await side.standing("audit")).cut == []


async def test_a_wanted_start_that_is_gone(side: LogSide) -> None:
    """Whoever wants an event back that went from the log is told so."""
    await side.bind("audit")
    await side.emit("a", 6)
    entries = side.entries("a")
    number = side.keys.number("a")

    async def lacks(place: Place) -> bool:
        [moved] = await reset_group(side.session, "audit", place, [number])
        return moved.lacks(place)

    assert not await lacks(Place.at(1))  # the first that ever was is there
    side.client.xtrim(side.part("a").log, minid=entries[2], approximate=False)
    assert await lacks(Place.at(1))
    assert await lacks(Place(entries[1]))
    assert not await lacks(Place(entries[2]))
    assert not await lacks(START)
    side.client.xtrim(side.part("a").log, maxlen=0, approximate=False)
    assert await lacks(Place(entries[5]))
    assert not await lacks(Place.at(10**15))
    assert not await lacks(END)


async def test_a_group_that_is_not_there(side: LogSide) -> None:
    """A partition without the group, or without a log, is left out."""
    assert await reset_group(side.session, "audit", START, [0, 1]) == []
    await side.bind("audit")
    side.client.delete(side.keys.partitions[0].log)
    assert [moved.partition for moved in await reset_group(side.session, "audit", START, [0, 1])] == [1]


async def test_a_member_that_handles_an_entry(side: LogSide) -> None:
    """What was in hands is settled by nobody: its effects do not happen, nor does it come again as a retry."""
    await side.bind("audit")
    await side.emit("a", 2)
    first, second = side.read("audit", "a", 2)
    await reset(side, "audit", END)
    assert await react(side, "audit", first) == "done"
    assert await react(side, "audit", second, "dead") == "done"
    assert await side.figures("audit", "a") == (0, 0, 0)
    assert (await side.position("audit", "a")).dead == 0


async def test_an_owner_of_an_ordered_group(side: LogSide) -> None:
    """Its token is no longer the lease's, so it settles nothing; tries and stopped runs are forgotten, anybody may take over."""
    await side.bind("audit", mode="ordered")
    await side.emit("a", 2)
    first, second = side.read("audit", "a", 2)
    side.lease("audit", "a", **{f"t:{second}": "2", "x:a": "1"})
    assert await react(side, "audit", first, lease=Lease("3-aa", "")) == "settled"
    await reset(side, "audit", START)
    assert await react(side, "audit", second, lease=Lease("3-aa", first)) == "fenced"
    found = side.client.hgetall(side.part("a").lease("audit"))
    assert list(found) == [b"token"]
    assert found[b"token"].startswith(b"4-")
    await reset(side, "audit", START)
    assert side.client.hget(side.part("a").lease("audit"), "token").startswith(b"5-")
    assert not side.client.exists(side.part("b").lease("audit"))


# -- delete


async def test_nothing_is_left(side: LogSide) -> None:
    """Group, bindings, retries, lease, cut and record go; its dead letters stay."""
    await side.bind("stays", "message.delta")
    before = [side.meta(run) for run in "ab"]
    await side.bind("goes", "message.delta", "log", mode="ordered")
    await side.emit("a", 4)
    given = side.read("goes", "a", 3)
    side.fail("goes", "a", given[0], due=7)
    side.lease("goes", "a")
    side.client.hset(side.keys.members("goes"), "m", "1 1 []")  # it died
    side.client.hset(side.part("a").meta, "cut:goes", "1-1")
    letter(side, "goes", "a", died=1000)
    assert await delete_group(side.session, "goes") == (2, 1)
    after = [dict(side.meta(run)) for run in "ab"]
    for one in after:
        one.pop("logged", None)
    assert after == before
    gone = [side.part("a").lease("goes"), side.part("a").delayed, side.keys.group("goes"), side.keys.members("goes")]
    assert side.client.exists(*gone) == 0
    assert await recorded_groups(side.session) == ["stays"]
    assert side.client.xlen(side.part("a").dead_group("goes")) == 1
    assert await side.figures("stays", "a") == (4, 0, 0)
    assert await delete_group(side.session, "goes") == (0, 0)
    assert dict(side.meta("a")) == {**before[0], "logged": "4"}


async def test_with_the_last_group_the_log_goes(side: LogSide) -> None:
    """Then nothing is logged; a group that comes later begins with what comes then, and its figures are right."""
    await side.bind("audit")
    await side.emit("a", 4)
    await reset(side, "audit", START)
    await delete_group(side.session, "audit")
    assert side.meta("a") == {"logged": "4"}
    assert not side.client.exists(side.part("a").log)
    await side.emit("a", 2)
    assert not side.client.exists(side.part("a").log)
    for start in ("first", "now"):
        await side.bind(start, start=start)
        assert await side.figures(start, "a") == (0, 0, 0)
    await side.emit("a", 3)
    for start in ("first", "now"):
        assert await side.figures(start, "a") == (3, 0, 0)
        side.read(start, "a", 2)
        assert await side.figures(start, "a") == (1, 2, 0)
    await delete_group(side.session, "first")
    assert len(side.entries("a")) == 3


async def test_what_broke_off(side: LogSide) -> None:
    """A deletion that ended between two partitions is finished by the next one: the record goes last."""
    await side.bind("audit")
    keys = side.keys.partitions[0]
    names = [keys.meta, keys.log, keys.delayed, keys.delayed_body, keys.lease("audit")]
    assert (await side.session.scripts.call("unbind", names, ["audit"]))[0] == b"unbound"
    assert (await side.session.scripts.call("unbind", names, ["audit"]))[0] == b"unknown"
    [standing] = (await read_groups(side.session)).all
    assert [position.bound for position in standing.positions] == [False, True]
    await delete_group(side.session, "audit")
    assert (await read_groups(side.session)).all == []


async def test_a_member_of_a_group_that_went(side: LogSide) -> None:
    """Who reads is told NOGROUP, who settles changes nothing; told again, the group is there anew."""
    await side.bind("audit")
    await side.emit("a", 2)
    given = side.read("audit", "a", 1)
    await delete_group(side.session, "audit")
    with pytest.raises(redis.ResponseError, match=r"NOGROUP|requires the key"):  # fakeredis says the latter
        side.read("audit", "a", 1)
    assert await react(side, "audit", given[0], "retry") == "done"
    assert side.client.zcard(side.part("a").delayed) == 0
    await side.bind("audit")
    assert await side.figures("audit", "a") == (0, 0, 0)
    assert side.meta("a")["groups"] == "1"


async def test_retries_of_a_group_that_went(side: LogSide) -> None:
    """They went with it: nothing becomes due for it later."""
    await side.bind("stays")
    await side.bind("goes")
    await side.emit("a", 1)
    side.fail("goes", "a", side.read("goes", "a", 1)[0], due=1)
    await delete_group(side.session, "goes")
    assert await promote_all(side.session) == 0
    assert len(side.entries("a")) == 1


# -- consumers


async def test_members_that_are_gone(side: LogSide) -> None:
    """A consumer goes that was silent for long and has nothing pending; nobody's entry goes with it, and the caller stays."""
    await side.bind("audit")
    await side.emit("a", 1)
    side.read("audit", "a", 1, "busy")
    for name in ("idle", "me"):
        side.client.xgroup_createconsumer(side.part("a").log, "audit", name)
        side.read("audit", "a", 1, name)
    assert await forget_members(side.session, side.part("a"), "audit", "me", silent_ms=60_000) == []
    assert await forget_members(side.session, side.part("a"), "audit", "me", silent_ms=0) == ["idle"]
    assert await side.figures("audit", "a") == (0, 1, 0)
    assert await forget_members(side.session, side.part("a"), "other", silent_ms=0) == []
    side.client.delete(side.part("b").log)
    assert await forget_members(side.session, side.part("b"), "audit", silent_ms=0) == []
