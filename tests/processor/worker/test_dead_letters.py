"""What fails for good becomes a dead letter, and runs again once it is requeued: workers, letters and runs together."""

from __future__ import annotations

import asyncio
from typing import Any

from processor import Retry, Tailrace
from processor.client.run import Run
from processor.core.backoff import GiveUp
from processor.store.dead import DeadLetter, Wanted, counts, letters, requeue
from processor.worker.worker import Worker
from tests.support.servers import TestServer


async def drained(tail: Tailrace) -> list[DeadLetter]:
    """A worker does what there is to do; the letters there are then."""
    async with asyncio.timeout(20):
        await Worker(tail).run(burst=True)
    return [letter async for letter in letters(await tail.session(), Wanted())]


async def test_a_failed_run_and_its_second_life(server: TestServer, namespace: str) -> None:
    """The letter tells error, traceback, attempts and origin; requeued, the function gets the same input in a new run of the same
    thread and labels, and the failed run stays as it was."""
    bank_is_open = False

    async with Tailrace(server.url, namespace=namespace) as tail:

        @tail.task(retry=Retry(attempts=2, base_seconds=0.001, cap_seconds=0.001))
        async def charge(run: Run[Any], cents: int) -> str:
            if not bank_is_open:
                raise ConnectionError("the bank is closed")
            return f"{cents} charged"

        failed = await charge.options(thread="customer", labels={"user": "ada"}).start(42)
        (letter,) = await drained(tail)
        assert (letter.run, letter.task, letter.attempts, letter.reason) == (failed.id, "charge", 2, "error")
        assert letter.error == "ConnectionError: the bank is closed"
        assert 'raise ConnectionError("the bank is closed")' in (letter.traceback or "")
        assert (letter.input, letter.labels) == ({"cents": 42}, {"user": "ada"})
        bank_is_open = True
        session = await tail.session()
        (answer,) = await requeue(session, [letter])
        assert await drained(tail) == []
        again: Run[Any] = tail.run(answer.run)
        assert await again.result(timeout_seconds=5) == "42 charged"
        state = await again.state()
        assert (state.status, state.thread, state.prev, state.attempt) == ("succeeded", "customer", failed.id, 1)
        assert state.labels == {"user": "ada"}
        assert (await failed.state()).status == "failed"
        assert await counts(session) == {}


async def test_what_gives_up_is_dead_at_once(server: TestServer, namespace: str) -> None:
    """Neither GiveUp nor an error that no retry can mend is tried again; the reason says which it was."""
    async with Tailrace(server.url, namespace=namespace) as tail:

        @tail.task(retry=Retry(attempts=5, never=(ValueError,)))
        async def charge(run: Run[Any], cents: int) -> None:
            raise GiveUp("nothing to charge") if cents == 0 else ValueError("less than nothing")

        for cents in (0, -1):
            await charge.start(cents)
        found = {letter.input["cents"]: letter for letter in await drained(tail)}
        assert [found[cents].attempts for cents in (0, -1)] == [1, 1]
        assert (found[0].reason, found[0].error) == ("given_up", "nothing to charge")
        assert (found[-1].reason, found[-1].error) == ("error", "ValueError: less than nothing")


async def test_a_letter_that_fails_again_is_a_new_letter(server: TestServer, namespace: str) -> None:
    """However often it is requeued, there is one letter, of the run that failed last."""
    async with Tailrace(server.url, namespace=namespace) as tail:

        @tail.task(retry=1)
        async def charge(run: Run[Any]) -> None:
            raise TimeoutError

        await charge.start()
        (letter,) = await drained(tail)
        (answer,) = await requeue(await tail.session(), [letter])
        (letter,) = await drained(tail)
        assert letter.run == answer.run
