"""The sandbox takes entries of inlets when it drains, on fakeredis and on a real server."""

from __future__ import annotations

import pytest

from processor import Entry, Into, Run, Tailrace
from processor.store.connection import execute
from processor.store.dead import Wanted
from processor.store.dead import letters as find_letters
from processor.testing import sandbox


@pytest.mark.parametrize("server", [False, True], ids=["fake", "real"])
async def test_drain_takes_entries(server: bool) -> None:
    """And runs what they start; what comes later the next drain takes, once."""
    tail = Tailrace()
    paid: list[int] = []

    @tail.task
    async def pay(run: Run, cents: int) -> None:
        paid.append(cents)

    @tail.inlet("orders")
    def order(entry: Entry) -> Into:
        data = {"task": "pay", "input": {"cents": entry.json("cents")}}
        return Into(f"order-{entry.text('id')}", "run.queued", data)

    async with sandbox(tail, server=server) as box:
        redis = (await tail.session()).redis
        for n in range(100):
            await execute(redis, "XADD", "orders", "*", "id", n, "cents", n)
        await box.drain()
        assert sorted(paid) == [*range(100)]
        assert (await tail.run("order-7").state()).status == "succeeded"
        await execute(redis, "XADD", "orders", "*", "id", 100, "cents", 100)
        await execute(redis, "XADD", "orders", "*", "id", 100)
        await box.drain()
        assert paid[100:] == [100]
        letters = find_letters(await tail.session(), Wanted(group="orders"))
        assert [letter.error async for letter in letters] == ["there is no field cents; it has id"]
