"""A task's result has the type that its function returns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from processor import Run, Tailrace
from processor.client.annotations import Annotations
from processor.client.results import Results
from processor.core.errors import BadInput


class Receipt(BaseModel):
    number: int
    day: date


@dataclass
class Place:
    row: int


async def test_a_handle_gives_what_the_function_returned(tail: Tailrace) -> None:
    """What a handle of start_here gives is the model that was returned; a handle by ID gives JSON."""

    @tail.task
    async def pay(run: Run, number: int) -> Receipt:
        return Receipt(number=number, day=date(2026, 11, 24))

    @tail.task
    async def places(run: Run) -> list[tuple[Place, int]]:
        return [(Place(1), 2)]

    with anyio.fail_after(5):
        run = await pay.start_here(7)
        receipt = await run.result()
        assert receipt == Receipt(number=7, day=date(2026, 11, 24))
        assert await tail.run(run.id).result() == {"number": 7, "day": "2026-11-24"}
        assert await (await places.start_here()).result() == [(Place(1), 2)]


@pytest.mark.parametrize("hint", [None, int, dict[str, int], Any, "Missing", Exception, "missing"])
def test_other_results_are_what_was_stored(hint: object) -> None:
    """Builtins, and annotations that say nothing of data, leave the JSON as it is."""

    async def fn(run: Run) -> Any: ...

    if hint == "missing":
        del fn.__annotations__["return"]
    else:
        fn.__annotations__["return"] = hint
    assert Results("fn", Annotations(fn)).parse({"a": [1]}, "r") == {"a": [1]}


def test_a_result_of_another_type_is_told() -> None:
    """A result that does not fit, of an older release for example, is an error that says how to read it."""

    async def fn(run: Run) -> Receipt:
        raise NotImplementedError

    with pytest.raises(BadInput, match=r"result of run r is no Receipt, which task fn returns") as told:
        Results("fn", Annotations(fn)).parse({"number": 1}, "r")
    assert 'tail.run("r").result()' in told.value.remedy
