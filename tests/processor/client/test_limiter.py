"""Limiter: waits, keeps to its rate over processes, takes nothing when it is cancelled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from processor import Tailrace
from processor.client.limiter import Limiter
from processor.core.errors import BadInput
from processor.core.rate import Rate
from tests.support.program import Program
from tests.support.servers import TestServer
from tests.support.until import until


async def test_taking_waits_for_the_rate(every_server: TestServer, namespace: str) -> None:
    """The burst is there at once; what comes behind it waits as long as the rate says, and no longer than it must."""
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        limiter = tail.limiter("model", Rate("50/s", burst=5))
        loop = asyncio.get_running_loop()
        await limiter.take(5)
        begun = loop.time()
        for cost in (1, 4, 2, 3):
            await limiter.take(cost)
        assert 10 / 50 - 0.005 <= loop.time() - begun < 2


async def test_equal_names_are_one_rate(tail: Tailrace) -> None:
    """Two limiters of one name share it, one of another name does not, and neither does a task's rate of that name."""
    await tail.limiter("model", "2/h").take(2)
    await tail.limiter("other", "2/h").take(2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await tail.limiter("model", "2/h").take()
    keys = {key.decode() async for key in (await tail.session()).redis.scan_iter("*:rate:*")}
    assert {key.rpartition("}:")[2] for key in keys} == {"rate:limiter:model", "rate:limiter:other"}


async def test_who_is_cancelled_takes_nothing(tail: Tailrace) -> None:
    """Somebody who stopped waiting has taken nothing, and holds up nobody."""
    limiter = tail.limiter("model", Rate("2/h", burst=2))
    session = await tail.session()
    await limiter.take(1)
    level = await session.redis.get(session.keys.rate("limiter:model"))
    impatient = asyncio.create_task(limiter.take(2))
    await until(lambda: limiter._line().locked(), "somebody waits")
    impatient.cancel()
    await asyncio.wait([impatient])
    assert await session.redis.get(session.keys.rate("limiter:model")) == level
    async with asyncio.timeout(5):
        await limiter.take(1)


async def test_waiting_is_in_order(tail: Tailrace) -> None:
    """A large cost is not overtaken by small ones that came behind it."""
    limiter = tail.limiter("model", Rate("100/s", burst=10))
    order: list[str] = []

    async def take(name: str, cost: int) -> None:
        await limiter.take(cost)
        order.append(name)

    await limiter.take(10)
    await asyncio.gather(take("large", 10), *(take(f"small-{number}", 1) for number in range(5)))
    assert order == ["large", *(f"small-{number}" for number in range(5))]


@pytest.mark.parametrize("cost", [0, -1, 6, True, 1.5])
async def test_what_can_never_pass_is_refused(tail: Tailrace, cost: int) -> None:
    """More than the burst would wait for ever; the message says what is possible."""
    with pytest.raises(BadInput, match=r"limiter model gives 1 to 5 at once \(50/s\)"):
        await tail.limiter("model", Rate("50/s", burst=5)).take(cost)


@pytest.mark.parametrize("rate", [Rate("1/s", by="user"), Rate("1/s", name="other"), None])
def test_a_limiter_is_given_a_rate_alone(rate: Rate) -> None:
    """Name and label are no matter of its rate."""
    with pytest.raises(BadInput, match="limiter model has the rate"):
        Limiter(Tailrace("redis://localhost:1"), "model", rate)


def test_blocking(server: TestServer, namespace: str) -> None:
    """`.sync` waits in a plain thread."""
    tail = Tailrace(server.url, namespace=namespace)
    limiter = tail.limiter("model", Rate("50/s", burst=5)).sync
    begun = time.monotonic()
    limiter.take(5)
    limiter.take(5)
    assert time.monotonic() - begun >= 0.095

    tail.portal.call(tail.close())


TAKES = """
import asyncio, json, sys
from processor import Tailrace
from processor.core.rate import Rate

async def main(url, namespace, takes):
    async with Tailrace(url, namespace=namespace) as tail:
        limiter = tail.limiter("model", Rate("100/s", burst=5))
        redis = (await tail.session()).redis
        before = await redis.time()
        for cost in takes:
            await limiter.take(cost)
        print(json.dumps([before, await redis.time()]))

asyncio.run(main(*sys.argv[1:3], json.loads(sys.argv[3])))
"""


async def test_processes_share_the_rate(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """Three processes together take no more in a time than one alone might."""
    takes = [1, 2, 3, 4, 5] * 3
    programs = [program("python", "-c", TAKES, server.url, namespace, json.dumps(takes)) for _ in range(3)]
    assert [await one.ended(30) for one in programs] == [0, 0, 0], [one.err for one in programs]
    times = [[seconds + micros / 1e6 for seconds, micros in json.loads(one.out)] for one in programs]
    lasted = max(end for _, end in times) - min(begin for begin, _ in times)
    assert lasted >= (3 * sum(takes) - 5) / 100 - 0.002, "less than the rate allows; its clock has whole milliseconds"
