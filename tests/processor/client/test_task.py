"""Tasks: executed here, queued for a worker."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any

import anyio
import pytest
from pydantic import BaseModel

from processor import GiveUp, Retry, RetryLater, Run, SyncRun, Tailrace
from processor.core.errors import (
    BadEvent,
    BadInput,
    NotAwaited,
    RunCancelled,
    RunExists,
    RunFailed,
    RunNotFound,
    ServerFull,
    ThreadBusy,
)
from processor.store.connection import execute
from tests.support.servers import TestServer
from tests.support.until import until


class Order(BaseModel):
    cents: int


@dataclass
class Place:
    row: int


async def types(run: Run) -> list[str]:
    return [event.type async for event in run.follow(live=False)]


async def test_start_here_runs_and_finishes(tail: Tailrace) -> None:
    """The return value is the run's result, and everything written stands before its end."""

    @tail.task
    async def answer(run: Run, prompt: str, *, times: int = 2) -> dict[str, str]:
        run.write(prompt * times)
        return {"text": await run.text()}

    run = await answer.start_here("ab")
    with anyio.fail_after(5):
        assert await run.result() == {"text": "abab"}
    first = [event async for event in run.follow(live=False)][0]
    assert first.data == {"task": "answer", "input": {"prompt": "ab", "times": 2}}
    assert first.attempt == 1


async def test_failed_tries_are_retried_and_their_text_dropped(tail: Tailrace) -> None:
    """Each try is an attempt; readers of text() see the last one's alone."""
    tries = 0

    @tail.task(retry=Retry(attempts=3, base_seconds=0.001))
    async def flaky(run: Run) -> int:
        nonlocal tries
        tries += 1
        run.write(f"try {tries}")
        if tries < 3:
            raise ValueError("not yet")
        return tries

    run = await flaky.start_here()
    with anyio.fail_after(5):
        assert await run.result() == 3
    assert await run.text() == "try 3"
    seen = [(event.type, event.attempt) async for event in run.follow(live=False) if event.type.startswith("run.")]
    assert seen == [
        *(("run.started", 1), ("run.retrying", 2), ("run.started", 2), ("run.retrying", 3), ("run.started", 3)),
        ("run.finished", 3),
    ]
    assert (await run.state()).attempt == 3


@pytest.mark.parametrize(
    ("error", "reason", "attempts"),
    [
        (ValueError("bad"), "error", 2),
        (KeyError("never"), "error", 1),
        (GiveUp("nothing to do"), "given_up", 1),
        (TimeoutError("slow"), "timeout", 2),
    ],
)
async def test_the_last_failure_fails_the_run(tail: Tailrace, error: Exception, reason: str, attempts: int) -> None:
    """Retries end by their number, by an error that is never retried, by GiveUp."""

    @tail.task(retry=Retry(attempts=2, base_seconds=0.001, never=(KeyError,)))
    async def failing(run: Run) -> None:
        raise error

    run = await failing.start_here()
    with anyio.fail_after(5), pytest.raises(RunFailed) as failed:
        await run.result()
    assert failed.value.reason == reason
    state = await run.state()
    assert (state.status, state.attempt) == ("failed", attempts)
    assert state.error is not None
    assert str(error) in state.error


async def test_retry_later_is_no_failed_try(tail: Tailrace) -> None:
    """RetryLater tries again after its time however often."""
    tries = 0

    @tail.task(retry=1)
    async def later(run: Run) -> int:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise RetryLater(0.001)
        return tries

    with anyio.fail_after(5):
        assert await (await later.start_here()).result() == 4


async def test_retry_later_leaves_the_tries_of_failures(tail: Tailrace) -> None:
    """A failure behind several RetryLater is the first of the tries that may fail."""
    tries = 0

    @tail.task(retry=Retry(attempts=2, base_seconds=0.001))
    async def sometimes(run: Run) -> int:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise RetryLater(0.001)
        if tries == 4:
            raise ValueError("once")
        return tries

    with anyio.fail_after(5):
        assert await (await sometimes.start_here()).result() == 5


async def test_a_next_try_waits_for_a_server_in_trouble(tail: Tailrace) -> None:
    """A server that refuses writes when a try is to begin ends no run: the try begins later."""
    session = await tail.session()
    tries = 0

    @tail.task(retry=Retry(attempts=2, base_seconds=0))
    async def twice(run: Run) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RetryLater(0.1)
        return tries

    run = await twice.start_here()
    await until(lambda: _is(run, "queued"), "the first try has failed")
    await execute(session.redis, "CONFIG", "SET", "maxmemory", "1")
    try:
        await until(lambda: isinstance(session.appender.trouble, ServerFull), "the next try is refused")
    finally:
        await execute(session.redis, "CONFIG", "SET", "maxmemory", "0")
    with anyio.fail_after(5):
        assert await run.result() == 2


async def test_a_start_that_raised_does_not_happen_later(tail: Tailrace) -> None:
    """Whoever is told that a run could not be started may start another one."""
    session = await tail.session()

    @tail.task
    async def nothing(run: Run) -> None: ...

    await execute(session.redis, "CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(ServerFull):
            await nothing.options(id="queued").start()
        with pytest.raises(ServerFull):
            await nothing.options(id="here").start_here()
    finally:
        await execute(session.redis, "CONFIG", "SET", "maxmemory", "0")
    await until(lambda: session.appender.trouble is None, "the server takes writes")
    assert not session.appender.busy
    for id in ("queued", "here"):
        with pytest.raises(RunNotFound):
            await tail.run(id).state()


async def test_a_start_that_was_cancelled_behind_its_beginning_ends(
    tail: Tailrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that began and that nobody is going to execute fails, instead of being renewed for ever."""
    session = await tail.session()

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    @tail.task
    async def nothing(run: Run) -> None: ...

    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(session.server.channels, "subscribe", never)
        async with asyncio.timeout(0.2):
            await nothing.options(id="r").start_here()
    with anyio.fail_after(5), pytest.raises(RunFailed) as failed:
        await tail.run("r").result()
    assert failed.value.reason == "shutdown"
    await (await nothing.start_here()).result()


async def test_closing_in_backoff_ends_the_run(server: TestServer, namespace: str) -> None:
    """A run that waits for its next try ends with its process, as one that is executed does."""
    tail = Tailrace(server.url, namespace=namespace)

    @tail.task
    async def later(run: Run) -> None:
        raise RetryLater(300)

    run = await later.start_here()
    await until(lambda: _is(run, "queued"), "it waits for its next try")
    await tail.close()
    with anyio.fail_after(5), pytest.raises(RunFailed) as failed:
        await run.result()
    assert failed.value.reason == "shutdown"
    await tail.close()


async def test_the_end_of_a_run_waits_for_room_in_the_buffer(tail: Tailrace) -> None:
    """What others have not got rid of yet delays a run's end, and does not swallow it."""
    buffer = (await tail.session()).producer.buffer

    @tail.task
    async def filling(run: Run) -> str:
        buffer.used += buffer.limit
        asyncio.get_running_loop().call_later(0.05, buffer.release, buffer.limit)
        return "done"

    with anyio.fail_after(5):
        assert await (await filling.start_here()).result() == "done"


def _sleep(is_there: Event) -> None:
    is_there.set()
    time.sleep(30)


@pytest.mark.holds_loop
async def test_a_forked_child_obeys_signals(server: TestServer, namespace: str) -> None:
    """A signal to a child of a task's ends the child: the runs that it was forked with are not its own."""
    tail = Tailrace(server.url, namespace=namespace)

    @tail.task
    async def forking(run: Run) -> int | None:
        fork = multiprocessing.get_context("fork")
        is_there = fork.Event()
        child = fork.Process(target=_sleep, args=(is_there,))
        child.start()
        try:
            assert await asyncio.to_thread(is_there.wait, 5)
            child.terminate()
            await asyncio.to_thread(child.join, 5)
            return child.exitcode
        finally:
            child.kill()
            child.join()

    run = await forking.start_here()
    assert await run.result() == -signal.SIGTERM
    await tail.close()


async def test_a_try_has_its_time(tail: Tailrace) -> None:
    """A try that takes longer than timeout_seconds is cancelled and counts as failed."""

    @tail.task(retry=1, timeout_seconds=0.05)
    async def slow(run: Run) -> None:
        await asyncio.sleep(30)

    run = await slow.start_here()
    with anyio.fail_after(5), pytest.raises(RunFailed) as failed:
        await run.result()
    assert failed.value.reason == "timeout"


async def test_cancel_reaches_the_function(tail: Tailrace) -> None:
    """A cancel is an ordinary cancellation; what the function writes while it cleans up stands before the end."""

    @tail.task
    async def endless(run: Run) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            run.log("cleaned up")

    run = await endless.start_here()
    assert await run.cancel("stop")
    with anyio.fail_after(2), pytest.raises(RunCancelled, match="stop"):
        await run.result()
    assert await types(run) == ["run.started", "run.cancel_requested", "log", "run.cancelled"]


async def test_cancel_in_backoff_ends_the_run(tail: Tailrace) -> None:
    """A run that waits for its next try is queued, so a cancel ends it at once."""

    @tail.task(retry=Retry(attempts=2, base_seconds=60, cap_seconds=60))
    async def failing(run: Run) -> None:
        raise ValueError("again")

    run = await failing.start_here()
    with anyio.fail_after(5):
        await until(lambda: _is(run, "queued"), "the run waits for its next try")
        assert await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        owners = (await tail.session()).owners
        await until(lambda: not owners._owned, "nobody waits for the try that will not be")


async def _is(run: Run, status: str) -> bool:
    return (await run.state()).status == status


async def test_ask_waits_for_an_answer_and_keeps_it_for_the_next_attempt(tail: Tailrace) -> None:
    """A person's answer resumes the run; an attempt that asks again is answered at once; a wrong type is asked for again."""
    tries = 0

    @tail.task(retry=Retry(attempts=2, base_seconds=0.001))
    async def asking(run: Run) -> int:
        nonlocal tries
        row = await run.ask("which row?", int)
        tries += 1
        if tries == 1:
            raise ValueError("once more")
        return row

    run = await asking.start_here()
    with anyio.fail_after(10):
        await until(lambda: _is(run, "waiting"), "the run waits")
        first = (await run.state()).ask
        await run.answer("no number")
        await until(lambda: _asks_anew(run, first), "the run asks again")
        await run.answer(7)
        assert await run.result() == 7
    assert (await types(run)).count("run.waiting") == 3 - 1


async def _asks_anew(run: Run, first: str | None) -> bool:
    state = await run.state()
    return state.status == "waiting" and state.ask != first


async def test_ask_may_time_out(tail: Tailrace) -> None:
    """Without an answer in time the function gets TimeoutError and the run goes on."""

    @tail.task
    async def asking(run: Run) -> str:
        try:
            return await run.ask("anybody?", str, timeout_seconds=0.05)
        except TimeoutError:
            return "nobody"

    with anyio.fail_after(5):
        assert await (await asking.start_here()).result() == "nobody"


async def test_start_queues_for_a_worker(tail: Tailrace) -> None:
    """start returns when Redis has it, and state says what the run waits for."""

    @tail.task
    async def answer(run: Run, prompt: str) -> str:
        return prompt

    run = await answer.options(labels={"user": "ada"}, delay_seconds=3600).start("why")
    state = await run.state()
    assert (state.status, state.task, state.labels) == ("queued", "answer", {"user": "ada"})
    run = await answer.start("why")
    assert (await run.state()).waiting_for == 'a worker: none that has task "answer" is alive'
    assert await run.cancel()
    assert (await run.state()).status == "cancelled"


async def test_the_same_id_and_input_is_the_same_run(tail: Tailrace) -> None:
    """A second start returns the first run; another input is RunExists."""

    @tail.task
    async def answer(run: Run, prompt: str) -> str:
        return prompt

    for start in ("start", "start_here"):
        named = answer.options(id=f"one-{start}")
        first = await getattr(named, start)("a")
        again = await getattr(named, start)("a")
        assert first.id == again.id
        with pytest.raises(RunExists):
            await getattr(named, start)("b")
    assert await types(first) == ["run.started", "run.finished"] or await first.result() == "a"


async def test_a_thread_has_one_active_run(tail: Tailrace) -> None:
    """The second turn of a conversation waits for the first; then it follows it."""

    @tail.task
    async def answer(run: Run, prompt: str) -> str:
        return await run.ask(prompt, str)

    turn = answer.options(thread="chat")
    first = await turn.start_here("one?")
    active = await tail.thread("chat").active()
    assert active is not None
    assert active.id == first.id
    assert first.id.startswith("chat~")
    with pytest.raises(ThreadBusy) as busy:
        await turn.start_here("two?")
    assert busy.value.run == first.id
    with anyio.fail_after(5):
        await until(lambda: _is(first, "waiting"), "the run waits")
        await first.answer("yes")
        await first.result()
        second = await turn.start_here("two?")
    assert [state.run async for state in tail.thread("chat").runs()] == [second.id, first.id]
    await second.cancel()


async def test_inputs_are_checked(tail: Tailrace) -> None:
    """Parameters of any type that pydantic knows arrive as that type; what does not fit is refused at start."""
    got: list[Any] = []

    @tail.task
    async def typed(run: Run, order: Order, place: Place, name: str = "x") -> None:
        got.extend((order, place, name))

    run = await typed.start_here(Order(cents=5), Place(row=1))
    with anyio.fail_after(5):
        await run.result()
    assert got == [Order(cents=5), Place(row=1), "x"]
    first = [event async for event in run.follow(live=False)][0]
    assert first.data["input"] == {"order": {"cents": 5}, "place": {"row": 1}, "name": "x"}
    with pytest.raises(BadInput, match="order does not fit: cents"):
        await typed.start_here({"cents": "many"}, {"row": 1})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="name is int, not str"):
        await typed.start_here(Order(cents=5), Place(row=1), 5)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="missing a required argument"):
        await typed.start_here()  # type: ignore[call-arg]


async def test_an_input_is_an_event(tail: Tailrace) -> None:
    """What is too large for an event is no input, wherever the run is executed."""

    @tail.task
    async def long(run: Run, text: str) -> None: ...

    for start in (long.start, long.start_here):
        with pytest.raises(BadEvent, match="at most 65,536"):
            await start("x" * 70_000)


async def test_a_plain_function_runs_in_a_thread(tail: Tailrace) -> None:
    """A def is a task as well; its handle blocks where an async one would be awaited."""

    @tail.task
    def plain(run: SyncRun, x: int) -> int:
        assert run.write("text").startswith("3-")
        with run.step("more"):
            run.log("line")
        return x + 1

    run = await plain.start_here(1)
    with anyio.fail_after(5):
        assert await run.result() == 2
    assert await run.text() == "text"


async def test_a_forgotten_await_is_told(tail: Tailrace) -> None:
    """What start returns says where it was forgotten, when touched and when dropped."""

    @tail.task
    async def answer(run: Run) -> None: ...

    with pytest.raises(NotAwaited, match=r"answer\.start\(\.\.\.\) at test_task\.py:\d+ was not awaited") as told:
        answer.start().id  # type: ignore[attr-defined]  # noqa: B018
    assert "answer.sync.start(...)" in str(told.value)
    with pytest.warns(RuntimeWarning, match="was not awaited"):
        answer.start()  # type: ignore[unused-coroutine]


async def test_a_start_may_be_shown_before_it_is_awaited(tail: Tailrace) -> None:
    """Whoever prints tasks, as asyncio's debug mode does, does not touch what start returned."""

    @tail.task
    async def nothing(run: Run) -> None: ...

    starting = asyncio.create_task(nothing.options(id="r").start())
    assert "nothing.start" in repr(starting)
    assert (await starting).id == "r"


async def test_types_of_a_run_may_be_known_to_type_checkers_only(tail: Tailrace) -> None:
    """A task's input is checked by its parameters' types; the run's own and the result's need not exist."""

    @tail.task
    async def counted(run: Missing, count: int) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return count

    with pytest.raises(BadInput, match="count"):
        await counted.start("three")  # type: ignore[arg-type]
    assert await (await counted.start_here(3)).result() == 3


async def test_a_result_that_is_not_json_fails_the_run(tail: Tailrace) -> None:
    """A result that cannot be stored is a failure like any other."""

    @tail.task(retry=1)
    async def odd(run: Run) -> object:
        return object()

    with anyio.fail_after(5), pytest.raises(RunFailed, match="cannot be written as JSON"):
        await (await odd.start_here()).result()


async def test_a_lost_owner_is_told(brisk: Tailrace) -> None:
    """A run whose process stops renewing ends as owner_lost; the process, when it is back, writes nothing more."""

    @brisk.task
    async def frozen(run: Run) -> None:
        await asyncio.sleep(30)

    run = await frozen.start_here()
    session = await brisk.session()
    session.owners._renewal.stop()  # type: ignore[union-attr]  # the process freezes, its passes do not
    with anyio.fail_after(10), pytest.raises(RunFailed) as failed:
        await run.result()
    assert failed.value.reason == "owner_lost"


@pytest.mark.holds_loop
async def test_a_blocked_loop_keeps_its_run(brisk: Tailrace, server: TestServer) -> None:
    """A function that blocks the event loop for more than a term keeps its run, though others make their passes."""

    @brisk.task
    async def rude(run: Run) -> str:
        time.sleep(1.5)  # noqa: ASYNC251
        return "done"

    other = Tailrace(settings=brisk.settings)  # in a thread of its own: a gateway's passes
    with other.sync as sync:
        sync.run("else").log("x")
        other.portal.call(_keep_passes(other))
        with anyio.fail_after(10):
            assert await (await rude.start_here()).result() == "done"


async def _keep_passes(tail: Tailrace) -> None:
    (await tail.session()).keep_passes()


async def test_a_renewed_owner_is_not_lost(brisk: Tailrace) -> None:
    """A run may take longer than many terms."""

    @brisk.task
    async def slow(run: Run) -> str:
        await asyncio.sleep(2)
        return "done"

    with anyio.fail_after(10):
        assert await (await slow.start_here()).result() == "done"


async def test_an_error_without_text(tail: Tailrace) -> None:
    """An error whose own code fails when it is to be told fails its run at once, by its name."""

    class NoText(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> None:
        raise NoText

    run = await work.start_here()
    with pytest.raises(RunFailed, match="NoText"):
        await run.result(5)
