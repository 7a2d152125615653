"""Asking a person in the middle of a run: the function stays in memory until the answer is in the feed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from processor.core.cursor import FeedId
from processor.core.errors import IllegalEvent
from processor.core.events import draft
from processor.core.json import dumps, loads
from processor.store.follow import follow

if TYPE_CHECKING:
    from processor.client.run import Run

__all__ = ["ask"]

M = TypeVar("M")


async def ask(run: Run[Any], question: str, answer: type[M], timeout_seconds: float | None) -> M:
    """Appends run.waiting and waits for the run.resumed that names it. Raises TimeoutError.

    One question a time: a run has one that is open, and another one would take its place.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(answer)
    async with asyncio.timeout(timeout_seconds) as deadline, run._asking:
        while True:
            value = await _answer(run, question, adapter.json_schema(), deadline)
            try:
                return adapter.validate_python(loads(value))
            except ValidationError as error:
                run.log(f"the answer does not fit and is asked for again: {error.errors()[0]['msg']}", level="warning")
                if deadline.expired():
                    raise TimeoutError from error


async def _answer(run: Run[Any], question: str, schema: object, deadline: asyncio.Timeout) -> bytes:
    """The answer that an earlier attempt was given, or one that is given in time. JSON."""
    id = run._ask_id(question)
    value = await run._stored_answer(id)
    if value:
        return value
    at = await _wait(run, id, question, schema)
    # The server knows no time limits of questions: one that has such is not given to it.
    with run._elsewhere(id, parks=deadline.when() is None):
        try:
            value = await _answer_after(run, id, at)
        except asyncio.CancelledError:
            if not deadline.expired():
                raise
            await run._may_go_on()
            value = await _stop_waiting(run, id)
            if not value:
                raise
        else:
            await run._may_go_on()
    return value


async def _wait(run: Run[Any], id: str, question: str, schema: object) -> FeedId:
    """Tells that the run waits, and since which event."""
    data = dumps({"ask": id, "question": question, "schema": schema})
    return FeedId.parse(await run._put(draft("run.waiting", data, attempt=run.attempt, ask=id)))


async def _answer_after(run: Run[Any], id: str, at: FeedId) -> bytes:
    async for event in follow(await run._session(), run.id, at, live=True):
        if event.type == "run.resumed":
            value = await run._stored_answer(id)
            if value:
                return value
    raise asyncio.CancelledError("the run ended while it waited for an answer")


async def _stop_waiting(run: Run[Any], id: str) -> bytes | None:
    """Nobody answered in time: the run goes on. Readers are told `null`; the next attempt finds nothing, and asks again.

    Returns the answer that came at the last moment, if one did.
    """
    data = dumps({"ask": id, "value": None, "timeout": True})
    try:
        await run._put(draft("run.resumed", data, attempt=run.attempt, ask=id, value=b""))
    except IllegalEvent:  # it does not wait any more
        return await run._stored_answer(id)
    return None
