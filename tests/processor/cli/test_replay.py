from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from processor.cli.replay import MAX, Pace
from tests.processor.cli.conftest import Cli, Terminal
from tests.support.servers import TestServer


@pytest.fixture
async def recorded(cli: Cli, server: TestServer) -> str:
    """A run of four events: at 0, 200, 400 and 1200 ms."""
    lines = b'{"type":"a.one"}\n{"type":"a.two"}\n{"type":"b.three"}\n{"type":"run.finished","data":{"result":1}}\n'
    await cli.here("emit", "recorded", "-", stdin=lines)
    client: Any = server.client()
    (feed,) = client.keys("*feed:recorded")
    (run,) = client.keys("*run:recorded")
    entries = client.xrange(feed)
    client.delete(feed)
    for number, ((_, fields), at) in enumerate(zip(entries, (0, 200, 400, 1200), strict=True), 1):
        client.xadd(feed, fields, id=f"{number}-{1_795_506_276_000 + at}")
    client.expire(feed, 600)
    client.hset(run, "tail", f"4-{1_795_506_276_000 + 1200}")
    client.close()
    return "recorded"


async def test_recorded_pace(cli: Cli, recorded: str) -> None:
    """Events come at the distances at which they happened; test_pace has what other speeds make of them."""
    took = {}
    for speed in ("1", "10", "max"):
        began = time.monotonic()
        ended = await cli("replay", recorded, "--speed", speed)
        took[speed] = time.monotonic() - began
        assert [e["type"] for e in ended.records] == ["a.one", "a.two", "b.three", "run.finished"]
    assert took["1"] >= 1.2


async def test_part_of_a_run(cli: Cli, recorded: str) -> None:
    """--from and --to take a number, an id or a time; both ends are included."""

    async def seqs(*args: str) -> list[int]:
        ended = await cli.here("replay", recorded, "--speed", "max", *args)
        return [int(e["id"].split("-")[0]) for e in ended.records]

    assert await seqs("--from", "2", "--to", "3") == [2, 3]
    assert await seqs("--from", "3-1795506276400") == [3, 4]
    assert await seqs("--from", "2026-11-24T07:44:36.200Z", "--to", "2026-11-24T07:44:36.400Z") == [2, 3]
    assert await seqs("--type", "a.*") == [1, 2]
    nothing = await cli.here("replay", recorded, "--from", "99")
    assert (nothing.code, nothing.out) == (0, "")
    assert f"{recorded} has no such events" in nothing.err


async def test_at_a_terminal_by_keys(cli: Cli, recorded: str, terminal: Callable[..., Terminal]) -> None:
    """--step shows one event a key; q ends."""
    seen = terminal("replay", recorded, "--step", env={"TAILRACE_REDIS_URL": cli.url})
    await seen.shows("a.one")
    assert "a.two" not in seen.seen
    assert "any key: the next event; q ends" in seen.seen
    seen.press(" ")
    await seen.shows("a.two")
    assert "b.three" not in seen.seen
    seen.press("q")
    assert await seen.ended() == 0
    assert "b.three" not in seen.seen


async def test_what_is_gone_is_told(cli: Cli, recorded: str, server: TestServer) -> None:
    """A trimmed beginning and an expired feed are a gap, as in any feed."""
    client: Any = server.client()
    (feed,) = client.keys("*feed:recorded")
    client.xdel(feed, "1-1795506276000", "2-1795506276200")
    first = (await cli.here("replay", recorded, "--speed", "max")).records[0]
    assert (first["type"], first["data"]["from"], first["data"]["to"]) == ("tailrace.gap", 1, 2)
    assert (first["data"]["reason"], first["data"]["snapshot"]["status"]) == ("trimmed", "succeeded")
    client.delete(feed)
    client.close()
    (gap,) = (await cli.here("replay", recorded)).records
    assert (gap["data"]["from"], gap["data"]["to"], gap["data"]["reason"]) == (1, 4, "expired")


async def test_a_run_that_goes_on(cli: Cli) -> None:
    """A living run is replayed up to now, and the command that follows it is named."""
    await cli.here("emit", "r", "a.b")
    ended = await cli.here("replay", "r")
    assert (ended.code, len(ended.records)) == (0, 1)
    assert ended.err == "r is running; this was all of it so far. `tailrace tail r` goes on.\n"


def test_pace() -> None:
    """Distances are divided by the speed, counted from the first event; a clock that went back waits for nothing."""
    pace = Pace(2.0)
    assert pace.wait_seconds(1000, 50.0) == 0.0
    assert pace.wait_seconds(3000, 50.2) == pytest.approx(0.8)
    assert pace.wait_seconds(2000, 53.0) == 0.0
    assert Pace(MAX).wait_seconds(10**15, 0.0) == 0.0
