"""cached: one computes, the others have it; what is kept how long; what never breaks the program."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from pydantic import BaseModel

from processor import Run, Tailrace
from processor.cache import Hit, cached, entries
from processor.cache.engine import calls_total
from processor.core.errors import BadInput
from tests.support.servers import TestServer
from tests.support.until import until


@pytest.fixture
async def tail(every_server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(every_server.url, namespace=namespace) as tail:
        yield tail
    if tail.background._loop is not None:
        await asyncio.to_thread(tail.background.call, tail.close())
        tail.background.stop()


class NotFound(Exception):
    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


async def test_one_computes(tail: Tailrace) -> None:
    """Fifty callers at once cause one computation, and so do those behind them, until it is over."""
    computed: list[str] = []

    @cached(tail, ttl_seconds=60)
    async def shout(text: str, *, loud: bool = False) -> str:
        computed.append(text)
        await asyncio.sleep(0.01)
        return text.upper()

    assert await asyncio.gather(*(shout("a") for _ in range(50))) == ["A"] * 50
    assert await shout("a", loud=False) == "A"
    assert computed == ["a"]
    assert await shout("a", loud=True) == "A"
    assert await shout("b") == "B"
    assert computed == ["a", "a", "b"]


async def test_each_caller_has_its_own_value(tail: Tailrace) -> None:
    """Who changes what it was given changes nobody else's; the first caller gets what later ones get."""

    @cached(tail, ttl_seconds=60)
    async def numbers() -> Any:
        return {"of": (1, 2)}

    first, second = await asyncio.gather(numbers(), numbers())
    first["of"].append(3)
    assert second == await numbers() == {"of": [1, 2]}


async def test_peek_and_invalidate(tail: Tailrace) -> None:
    """peek computes nothing and says what is left; invalidate forgets, also what is under way."""
    go_on = asyncio.Event()
    answers = iter(["old", "new", "newer"])

    @cached(tail, ttl_seconds=60, jitter=0)
    async def ask(name: str) -> str:
        answer = next(answers)
        await go_on.wait()
        return answer

    assert await ask.peek("x") is None
    under_way = asyncio.create_task(ask("x"))
    await until(lambda: _is_claimed(tail), "it is claimed")
    assert await ask.peek("x") is None
    assert await ask.invalidate("x")
    go_on.set()
    assert await under_way == "old"
    assert await ask.peek("x") is None, "what was read before may be what was changed"
    assert await ask("x") == "new"
    hit = await ask.peek("x")
    assert isinstance(hit, Hit)
    assert (hit.value, hit.error) == ("new", None)
    assert 59 < hit.left_seconds <= 60
    assert await ask.invalidate("x")
    assert not await ask.invalidate("x")
    assert await ask("x") == "newer"


async def _is_claimed(tail: Tailrace) -> bool:
    return bool([key async for key in (await tail.session()).redis.scan_iter("*:cache:*")])


async def test_nothing_is_kept_for_long(tail: Tailrace) -> None:
    """A result ends after its time, shorter by up to the jitter and never longer, each by its own draw."""

    @cached(tail, ttl_seconds=100, jitter=0.5)
    async def f(n: int) -> int:
        return n

    @cached(tail, ttl_seconds=0.05, early=0)
    async def brief() -> float:
        return time.perf_counter()

    for n in range(40):
        await f(n)
    left = [hit.left_seconds for n in range(40) if (hit := await f.peek(n)) is not None]
    assert len(left) == 40
    assert min(left) >= 40, "50, less the time that this test takes"
    assert max(left) <= 100
    assert max(left) - min(left) > 20
    redis = (await tail.session()).redis
    ttls = [await redis.pttl(key) async for key in redis.scan_iter("*:cache:*")]
    assert all(0 < ttl <= 100_000 for ttl in ttls)
    first = await brief()
    await until(lambda: _differs(brief, first), "it is computed anew")


async def _differs(fn: Any, first: float) -> bool:
    return bool(await fn() != first)


async def test_negative_answers(tail: Tailrace) -> None:
    """None, and exceptions that are answers, are kept for a shorter time; others are not, and everybody gets them."""
    calls: list[str] = []

    @cached(tail, ttl_seconds=100, negative_seconds=5, negative=(NotFound,), jitter=0)
    async def find(name: str) -> str | None:
        calls.append(name)
        if name == "missing":
            raise NotFound(name)
        if name == "broken":
            raise OSError(name)
        return None

    assert await find("none") is None
    assert await find("none") is None
    hit = await find.peek("none")
    assert hit is not None
    assert 4 < hit.left_seconds <= 5
    for _ in range(3):
        with pytest.raises(NotFound) as found:
            await find("missing")
        assert found.value.what == "missing"
    hit = await find.peek("missing")
    assert hit is not None
    assert isinstance(hit.error, NotFound)
    outcomes = await asyncio.gather(*(find("broken") for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OSError] * 3
    with pytest.raises(OSError):
        await find("broken")
    assert calls == ["none", "missing", "broken", "broken"]

    @cached(tail, ttl_seconds=100, negative_seconds=0)
    async def never_none(name: str) -> None:
        calls.append(name)

    await never_none("x")
    await never_none("x")
    assert calls[-2:] == ["x", "x"]


async def test_one_refreshes_early(tail: Tailrace) -> None:
    """Towards its end one caller computes a value anew, while the others have the old one; if that fails it stays good."""
    answers: list[Any] = ["old", OSError("no"), "new"]
    under_way, go_on = asyncio.Event(), asyncio.Event()

    def make(early: float) -> Any:
        @cached(tail, ttl_seconds=100, early=early, name="f")
        async def f() -> Any:
            answer = answers.pop(0)
            if len(answers) == 2:
                await asyncio.sleep(0.03)  # XFetch knows how long it took
            else:
                under_way.set()
                await go_on.wait()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return f

    lazy, eager = make(0), make(100)
    assert await lazy() == "old"
    object.__setattr__(eager._engine.policy, "early", 1e9)  # else it would be a matter of luck
    refresh = asyncio.create_task(eager())
    await under_way.wait()
    assert await lazy() == "old"
    go_on.set()
    assert await refresh == "old"
    assert await eager() == "new"
    assert await lazy() == "new"


@dataclass
class Order:
    number: int


class Price(BaseModel):
    cents: int


async def test_typed_results(tail: Tailrace) -> None:
    """A result that is annotated with a model or dataclass is one, for every caller."""

    @cached(tail, ttl_seconds=60)
    async def prices(order: Order) -> list[Price]:
        return [Price(cents=order.number)]

    @cached(tail, ttl_seconds=60)
    async def untyped(order: Order):  # type: ignore[no-untyped-def]
        return Price(cents=order.number)

    assert await prices(Order(1)) == [Price(cents=1)]
    assert await prices(Order(1)) == [Price(cents=1)]
    assert await untyped(Order(1)) == {"cents": 1}


async def test_a_release_with_another_type(tail: Tailrace) -> None:
    """What cannot be read is computed anew and replaced; with another version nothing old is even looked at."""

    @cached(tail, ttl_seconds=60, name="price")
    async def before(x: int) -> dict[str, int]:
        return {"euros": 1}

    @cached(tail, ttl_seconds=60, name="price")
    async def after(x: int) -> Price:
        return Price(cents=x)

    @cached(tail, ttl_seconds=60, name="price", version=2)
    async def second(x: int) -> Price:
        return Price(cents=2 * x)

    await before(1)
    with structlog.testing.capture_logs() as logs:
        assert await after(1) == Price(cents=1)
    assert [line["event"] for line in logs] == ["cache_value_unreadable"]
    assert await before(1) == {"cents": 1}
    assert await second(1) == Price(cents=2)


async def test_what_is_no_json_or_too_large(tail: Tailrace) -> None:
    """It is given out as it is and not kept: those at once share it in their process, all others compute; told once."""
    calls = 0

    @cached(tail, ttl_seconds=60, max_kib=1)
    async def odd(kind: str) -> object:
        nonlocal calls
        calls += 1
        return object() if kind == "object" else "x" * 2000

    with structlog.testing.capture_logs() as logs:
        for kind in ("object", "large"):
            assert type(await odd(kind)) in (object, str)
            await asyncio.gather(odd(kind), odd(kind))
            assert await odd.peek(kind) is None
    assert [line["event"] for line in logs] == ["cache_value_no_json", "cache_value_too_large"]
    assert calls == 4


@pytest.mark.parametrize("value", [object(), {"a": [lambda: 1]}])
async def test_arguments_are_the_key(tail: Tailrace, value: object) -> None:
    """Arguments without a fixed form are refused where the function is called."""

    @cached(tail, ttl_seconds=60)
    async def f(x: object, *rest: object, **more: object) -> object:
        return None

    with pytest.raises(BadInput, match="argument x is"):
        await f(value)
    with pytest.raises(TypeError):
        await f()  # type: ignore[call-arg]


async def test_who_is_cancelled_takes_nobody_along(tail: Tailrace) -> None:
    """A computation goes on while anybody waits for it; with the last one it is cancelled, and the next caller begins anew."""
    begun, go_on, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @cached(tail, ttl_seconds=60)
    async def f() -> str:
        begun.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "done"

    first = asyncio.create_task(f())
    await begun.wait()
    second = asyncio.create_task(f())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert not cancelled.is_set()
    second.cancel()
    await asyncio.wait([second])
    assert cancelled.is_set()
    go_on.set()
    async with asyncio.timeout(5):  # far below the claim's term
        assert await f() == "done"


async def test_who_is_cancelled_while_it_asks(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim whose answer nobody heard is given up: others need not wait for its end."""
    taken, take = asyncio.Event(), entries.take

    async def slow(*args: Any) -> Any:
        answer = await take(*args)
        taken.set()
        await asyncio.sleep(60)
        return answer

    @cached(tail, ttl_seconds=60, claim_seconds=60)
    async def f() -> str:
        return "done"

    monkeypatch.setattr(entries, "take", slow)
    asking = asyncio.create_task(f())
    await taken.wait()
    asking.cancel()
    await asyncio.wait([asking])
    monkeypatch.setattr(entries, "take", take)
    async with asyncio.timeout(5):
        assert await f() == "done"


async def test_in_a_task(tail: Tailrace) -> None:
    """It works in tasks, plain and async, and what it does to their run is the run's of whoever computes."""

    @cached(tail, ttl_seconds=60)
    async def ask(x: int) -> int:
        return x + 1

    @cached(tail, ttl_seconds=60)
    def plain(x: int) -> int:
        return x + 2

    @tail.task(retry=1)
    async def one(run: Run) -> list[int]:
        return [await ask(1), await asyncio.to_thread(plain, 1), plain(1)]

    assert await (await one.start_here()).result(5) == [2, 3, 3]


async def test_plain_functions(tail: Tailrace) -> None:
    """A plain function computes in the thread that calls it; other threads wait, and have what it computed."""
    threads: list[int] = []

    @cached(tail, ttl_seconds=60, negative=(KeyError,))
    def slow(x: int) -> int:
        threads.append(threading.get_ident())
        time.sleep(0.05)
        if x < 0:
            raise KeyError(x)
        return x + 1

    results = await asyncio.gather(*(asyncio.to_thread(slow, 1) for _ in range(6)))
    assert results == [2] * 6
    assert len(threads) == 1
    for _ in range(2):
        with pytest.raises(KeyError):
            await asyncio.to_thread(slow, -1)
    assert len(threads) == 2
    hit = await asyncio.to_thread(slow.peek, 1)
    assert hit is not None
    assert hit.value == 2
    assert await asyncio.to_thread(slow.invalidate, 1)
    assert await asyncio.to_thread(slow, 1) == 2
    assert len(threads) == 3

    async def in_background() -> int:
        return slow(1)

    assert await asyncio.to_thread(tail.background.call, in_background()) == 2


async def test_a_server_that_is_away() -> None:
    """The function is simply called; that is told once and not asked for each call."""
    tail = Tailrace("redis://127.0.0.1:1", namespace="n")

    @cached(tail, ttl_seconds=60)
    async def f(x: int) -> int:
        return x

    @cached(tail, ttl_seconds=60)
    def plain(x: int) -> int:
        return x

    with structlog.testing.capture_logs() as logs:
        assert [await f(x) for x in range(50)] == list(range(50))
        assert [await asyncio.to_thread(plain, x) for x in range(5)] == list(range(5))
    told = [line for line in logs if line["event"] == "cache_away"]
    assert len(told) == 2
    await tail.close()
    await asyncio.to_thread(tail.background.call, tail.close())
    tail.background.stop()


async def test_the_metric(tail: Tailrace) -> None:
    """Calls are counted by what became of them."""

    @cached(tail, ttl_seconds=60, name="counted")
    async def f() -> int:
        return 1

    def counts() -> dict[str, float]:
        found = [sample for metric in calls_total.collect() for sample in metric.samples]
        return {
            sample.labels["outcome"]: sample.value
            for sample in found
            if sample.labels["function"] == "counted" and sample.name.endswith("_total")
        }

    before = counts()
    await f()
    await f()
    after = counts()
    assert {name: after[name] - before.get(name, 0) for name in after} == {"computed": 1, "hit": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": "1"},
        {"jitter": 1},
        {"max_kib": 0},
        {"negative": (int,)},
        {"negative": KeyError},
        {"negative": "KeyError"},
    ],
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    """Told where the function is made."""
    with pytest.raises(BadInput):
        cached(Tailrace("redis://localhost:1"), **{"ttl_seconds": 60, **wrong})


def test_generators_are_refused() -> None:
    """What yields has no result."""
    with pytest.raises(TypeError, match="yields"):

        @cached(Tailrace("redis://localhost:1"), ttl_seconds=60)
        def f() -> Any:
            yield 1
