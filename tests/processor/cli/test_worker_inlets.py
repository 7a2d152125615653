"""`tailrace worker` of a module that has inlets, with tasks and without."""

from __future__ import annotations

import json
from pathlib import Path

import redis

from processor import Tailrace
from processor.errors import RunNotFound
from tests.processor.cli.conftest import Cli
from tests.support.until import until

INLETS = """
from tailrace import Entry, Into, Tailrace

tail = Tailrace()
tail.inlet("orders")

@tail.inlet("bills-of-shop", name="bills")
def bill(entry: Entry) -> Into | None:
    return Into("bills", "bill.sent", {"cents": entry.json("cents")})
"""


async def test_a_worker_may_have_inlets_alone(cli: Cli, tmp_path: Path) -> None:
    """It says whose entries it takes, and takes them."""
    (tmp_path / "inlets.py").write_text(INLETS)
    program = cli.begin("worker", "inlets:tail")
    await program.says("worker_ready", 20)
    (ready,) = [json.loads(line) for line in program.err.splitlines() if '"worker_ready"' in line]
    assert (ready["tasks"], ready["inlets"]) == ([], ["bills", "orders"])
    with redis.Redis.from_url(cli.url or "") as client:
        client.xadd("orders", {"run": "o-1", "type": "order.paid", "data": '{"cents":500}'})
        client.xadd("bills-of-shop", {"cents": "700"})
        async with Tailrace(cli.url) as tail:

            async def arrived() -> bool:
                return [await _events(tail, run) for run in ("o-1", "bills")] == [["order.paid"], ["bill.sent"]]

            await until(arrived, "both entries arrived", 20)
        client.delete("orders", "bills-of-shop")


async def _events(tail: Tailrace, run: str) -> list[str]:
    try:
        return [event.type async for event in tail.run(run).follow(live=False)]
    except RunNotFound:
        return []
