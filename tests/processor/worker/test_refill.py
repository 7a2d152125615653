"""An end waits for live events that the server acknowledged and lost, also while its worker drains."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.store.connection import execute
from processor.store.settling import Settling
from tests.processor.worker.conftest import working
from tests.support.until import until


async def test_a_drain_waits_for_the_refill(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended and waits for its live events to be there again is settled before its worker goes, in its first attempt."""
    written, go_on = asyncio.Event(), asyncio.Event()
    answers: list[str] = []
    send = Settling._until_answered

    async def watched(self: Settling[Any], *args: Any) -> Any:
        found = await send(self, *args)
        answers.extend(answer.word for answer in found or ())
        return found

    monkeypatch.setattr(Settling, "_until_answered", watched)

    @tail.task
    async def work(run: Run[Any]) -> int:
        await run.log("one")
        written.set()
        await go_on.wait()
        return run.attempt

    async with working(tail) as worker:
        run = await work.start()
        await written.wait()
        session = await tail.session()
        key = session.keys.of(run.id).run(run.id)
        kept = await execute(session.redis, "HGET", key, "exec_pos")
        await execute(session.redis, "HSET", key, "exec_pos", "0 0 0")  # as a server does that lost its last second
        go_on.set()
        await until(lambda: answers, "the end was told that it is too early")
        worker.stop()
        unsettled: list[int] = []

        def asked_again() -> bool:
            unsettled.append(worker._settling.unsettled)
            return len(answers) > 2

        await until(asked_again, "it asks again meanwhile")
        await execute(session.redis, "HSET", key, "exec_pos", kept)
    assert set(unsettled) == {1}  # what a drain waits for
    assert set(answers[:-1]) == {"behind"}
    assert await run.result(1) == 1
