"""Annotations that are written as text."""

from __future__ import annotations

import gc
import weakref
from typing import Annotated

import pytest
from pydantic import BaseModel

from processor import Depends, Run, Tailrace
from processor.client.calling import invoke


async def test_what_a_function_knows_its_tasks_may_name(tail: Tailrace) -> None:
    """A task inside of a function, as tests have them, may take, return and depend on what is defined there."""

    class Order(BaseModel):
        cents: int

    async def rate() -> int:
        return 2

    @tail.task
    async def bare(run: Run, order: Order, times: Annotated[int, Depends(rate)] = 0) -> Order:
        return Order(cents=order.cents * times)

    @tail.task(retry=1)
    async def whole(run: Run, orders: list[Order]) -> list[Order]:
        return orders

    assert await invoke(bare, tail.run("r"), {"order": {"cents": 5}}) == Order(cents=10)
    assert await invoke(whole, tail.run("r"), {"orders": [{"cents": 5}]}) == [Order(cents=5)]
    assert await (await whole.start_here([Order(cents=7)])).result() == [Order(cents=7)]


def test_nothing_else_is_held_of_a_function() -> None:
    """A task does not keep alive what stood beside it in its function."""

    class Large: ...

    def define() -> tuple[Tailrace, weakref.ref[Large]]:
        large = Large()
        tail = Tailrace("redis://127.0.0.1:1")

        @tail.task
        async def task(run: Run, n: int) -> None: ...

        return tail, weakref.ref(large)

    tail, large = define()
    gc.collect()
    assert list(tail.tasks) == ["task"]
    assert large() is None


async def test_a_name_that_nobody_knows_is_told_when_it_is_needed(tail: Tailrace) -> None:
    """A type may be defined below its task; one that never is raises at the first start."""

    @tail.task
    async def task(run: Run, order: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(NameError, match="Missing"):
        await task.start({})
    with pytest.raises(NameError, match="Missing"):
        task.prepare()
