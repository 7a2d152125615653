"""Asking a person in the middle of a run: the function stays in memory until the answer is in the feed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from processor.core.cursor import FeedId
from processor.core.events import draft
from processor.core.json import dumps, loads
from processor.store.follow import follow

if TYPE_CHECKING:
    from processor.client.run import Run

__all__ = ["ask"]

M = TypeVar("M")


async def ask(run: Run[Any], question: str, answer: type[M], timeout_seconds: float | None) -> M:
    """Appends run.waiting and waits for the run.resumed that names it."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(answer)
    async with asyncio.timeout(timeout_seconds) as deadline:
        while True:
            id = run._ask_id(question)
            value = await run._stored_answer(id)
            if value is None:
                at = await _wait(run, id, question, adapter.json_schema())
                with run._elsewhere(id):
                    try:
                        value = await _answer_after(run, id, at)
                    except asyncio.CancelledError:
                        if deadline.expired():
                            await run._may_go_on()
                            await _stop_waiting(run, id)
                        raise
                    await run._may_go_on()
            try:
                return adapter.validate_python(loads(value))
            except ValidationError as error:
                run.log(f"the answer does not fit and is asked for again: {error.errors()[0]['msg']}", level="warning")


async def _wait(run: Run[Any], id: str, question: str, schema: object) -> FeedId:
    """Tells that the run waits, and since which event."""
    data = dumps({"ask": id, "question": question, "schema": schema})
    return FeedId.parse(await run._put(draft("run.waiting", data, attempt=run.attempt, ask=id)))


async def _answer_after(run: Run[Any], id: str, at: FeedId) -> bytes:
    async for event in follow(await run._session(), run.id, at, live=True):
        if event.type == "run.resumed":
            value = await run._stored_answer(id)
            if value is not None:
                return value
    raise asyncio.CancelledError("the run ended while it waited for an answer")


async def _stop_waiting(run: Run[Any], id: str) -> None:
    """Nobody answered in time: the run goes on, and what it would have been told is null."""
    data = dumps({"ask": id, "value": None, "timeout": True})
    await run._put(draft("run.resumed", data, attempt=run.attempt, ask=id, value=b"null"))
