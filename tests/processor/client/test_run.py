"""Run as a handle and as a block."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from processor import Event, Run, Tailrace
from processor.core.errors import (
    BadCursor,
    BadEvent,
    BadInput,
    BadName,
    BufferFull,
    EventsLost,
    IllegalEvent,
    RunCancelled,
    RunClosed,
    RunFailed,
    RunNotFound,
    ServerUnreachable,
    StaleAttempt,
)
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.follow import follow
from tests.support.servers import TestServer
from tests.support.until import until


async def everything(run: Run) -> list[Event]:
    return [event async for event in run.follow(live=False)]


async def test_calling_sends_and_awaiting_gives_the_feed_id(tail: Tailrace) -> None:
    """What is written goes out when called; awaiting it gives the ID under which it stands in the feed."""
    run = tail.run("r")
    first = run.log("one")
    second = await run.log("two")
    assert [event.id for event in await everything(run)] == [await first, second]
    assert second.startswith("2-")


async def test_write_opens_one_message(tail: Tailrace) -> None:
    """Text of write() belongs to one message that the first call opens."""
    run = tail.run("r")
    run.write("Hel")
    await run.write("lo")
    assert [event.type for event in await everything(run)] == ["message.started", "message.delta", "message.delta"]
    assert await run.text() == "Hello"


async def test_long_text_becomes_several_events_cut_between_characters(tail: Tailrace) -> None:
    """Text longer than an event may be arrives whole."""
    text = "ä🙂\x00" * 20_000
    run = tail.run("r")
    await run.write(text)
    assert await run.text() == text
    assert len(await everything(run)) > 5


async def test_lone_surrogates_come_back(tail: Tailrace) -> None:
    """Broken text of a model is stored and read as it is."""
    run = tail.run("r")
    await run.write("a\ud800b")
    assert (await everything(run))[-1].text == "a\ud800b"


async def test_structured_parts_close_themselves(tail: Tailrace) -> None:
    """Messages, reasoning, steps and tools begin and end with the same ID, errors included."""
    run = tail.run("r")
    async with run.step("plan"), run.reasoning() as thought:
        thought.write("hm")
    async with run.message() as message:
        message.write("answer")
    with pytest.raises(ValueError, match="no"):
        async with run.tool("search", {"q": 1}) as tool:
            tool.args('{"q":1}')
            raise ValueError("no")
    await run._flush()
    events = await everything(run)
    assert [event.type for event in events] == [
        *("step.started", "reasoning.started", "reasoning.delta", "reasoning.finished", "step.finished"),
        *("message.started", "message.delta", "message.finished"),
        *("tool.started", "tool.ready", "tool.args", "tool.error"),
    ]
    assert events[-1].data == {"tool": tool.id, "error": "ValueError: no"}
    assert message.text == "answer"


async def test_a_failed_write_does_not_replace_the_error_of_a_block(tail: Tailrace) -> None:
    """The exception that leaves a step is the caller's own; what a write failed with waits for the next call."""
    run = tail.run("r")
    run.log("begun")
    with pytest.raises(ZeroDivisionError):
        async with run.step("divide"):
            await run.emit("run.finished", {"result": 1})
            sent = run.log("late")
            await until(lambda: sent.outcome is not None, "the write is refused")
            raise ZeroDivisionError
    with pytest.raises(RunClosed):
        run.log("later")


async def test_set_is_a_patch(tail: Tailrace) -> None:
    """set() emits one add a key, its name escaped as RFC 6901 asks."""
    run = tail.run("r")
    await run.set(progress=1, **{"a/b~c": None})
    assert (await everything(run))[0].data == [
        {"op": "add", "path": "/progress", "value": 1},
        {"op": "add", "path": "/a~1b~0c", "value": None},
    ]


async def test_a_block_is_a_run(tail: Tailrace) -> None:
    """async with creates the run, owns it, and its end is the run's."""
    async with tail.run("r", labels={"user": "ada"}) as run:
        run.write("hi")
        state = await run.state()
        assert (state.status, state.attempt, state.labels) == ("running", 1, {"user": "ada"})
    state = await run.state()
    assert state.status == "succeeded"
    assert state.ended is not None
    types = [event.type for event in await everything(run)]
    assert types == ["run.started", "message.started", "message.delta", "message.finished", "run.finished"]


async def test_an_exception_in_a_block_fails_the_run(tail: Tailrace) -> None:
    """The block's exception goes on, and the run fails with its words and its traceback."""
    with pytest.raises(KeyError):
        async with tail.run("r") as run:
            raise KeyError("missing")
    last = (await everything(run))[-1]
    assert (last.type, last.data["error"], last.data["reason"]) == ("run.failed", "KeyError: 'missing'", "error")
    assert "in test_an_exception" in last.data["traceback"]
    with pytest.raises(RunFailed, match="KeyError") as failed:
        await run.result()
    assert failed.value.reason == "error"


async def test_cancelling_a_block_ends_it_as_cancelled(tail: Tailrace) -> None:
    """A cancel reaches the block as a cancellation; outside it is RunCancelled, and the task goes on."""
    with pytest.raises(RunCancelled):
        async with tail.run("r") as run:
            assert await tail.run("r").cancel("enough")
            await asyncio.sleep(30)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    assert (await run.state()).status == "cancelled"
    assert (await everything(run))[-1].data == {"reason": "enough"}
    assert not await run.cancel()


async def test_cancelling_a_block_that_asks_ends_it_as_cancelled(tail: Tailrace) -> None:
    """A run that waits for an answer ends at once, and the block is told the same as any other."""

    async def ask() -> None:
        async with tail.run("r") as run:
            await run.ask("really?", bool)

    asking = asyncio.create_task(ask())
    async for event in follow(await tail.session(), "r", wait_seconds=5):
        if event.type == "run.waiting":
            break
    assert await tail.run("r").cancel("no")
    with anyio.fail_after(5), pytest.raises(RunCancelled):
        await asking


async def test_a_cancel_at_the_end_of_a_block_comes_too_late(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that arrives while the block's last writes go out does not leave the run without an end."""
    run = tail.run("r")
    flush = run._flush

    async def cancelled_meanwhile(*, patiently: bool = False) -> None:
        await tail.run("r").cancel("too late")
        await asyncio.sleep(0.1)
        await flush(patiently=patiently)

    monkeypatch.setattr(run, "_flush", cancelled_meanwhile)
    async with run:
        run.log("all is done")
    assert (await run.state()).status == "succeeded"


async def test_a_block_whose_run_is_lost_says_so(brisk: Tailrace) -> None:
    """A block whose run another owner has is left by StaleAttempt, not by a cancellation that nobody asked for."""
    session = await brisk.session()
    with anyio.fail_after(5), pytest.raises(StaleAttempt):
        async with brisk.run("r") as run:
            await execute(session.redis, "HSET", session.keys.of("r").run("r"), "owner", "another")
            await asyncio.sleep(30)
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
    await run.cancel()


async def test_a_lost_write_fails_its_block(tail: Tailrace) -> None:
    """A write that nobody awaited and that failed fails the run, when the block's end tells of it."""
    with pytest.raises(EventsLost):
        async with tail.run("r") as run:
            await run.log("one")
            run._writer().chain.lost = (1, 1)
    assert (await run.state()).status == "failed"


async def test_an_event_that_found_no_room_says_so(server: TestServer, namespace: str) -> None:
    """BufferFull is told once by the next call, and again by the event itself when it is awaited."""
    settings = Settings(redis_url=server.url, namespace=namespace, buffer_mib=1)
    async with Tailrace(settings=settings) as tail:
        run, sent = tail.run("r"), []
        with pytest.raises(BufferFull):
            while True:
                sent.append(run.log("x" * 60_000))
        with anyio.fail_after(5), pytest.raises(BufferFull):
            await sent[-1]
        await sent[-2]


async def test_an_ended_run_takes_no_more(tail: Tailrace) -> None:
    """Awaited writes to an ended run raise RunClosed in API.md's words; unawaited ones raise in the next call."""
    async with tail.run("r"):
        pass
    late = tail.run("r")
    with pytest.raises(
        RunClosed, match=r"run r ended as succeeded.*; log was not added. A run that has ended takes no more"
    ):
        await late.log("late")
    sent = late.log("later")
    await until(lambda: sent.outcome is not None, "the second write is refused")
    with pytest.raises(RunClosed):
        late.log("latest")


async def test_illegal_events_name_run_status_and_type(tail: Tailrace) -> None:
    """A lifecycle event that the status does not allow is refused and changes nothing."""
    run = tail.run("r")
    with pytest.raises(IllegalEvent, match=r"run r does not exist; run\.finished is not allowed") as refused:
        await run.emit("run.finished", {"result": 1})
    assert (refused.value.status, refused.value.type) == ("new", "run.finished")
    with pytest.raises(RunNotFound):
        await run.state()


async def test_a_plain_producer_ends_its_run(tail: Tailrace) -> None:
    """A handle that owns nothing may start and finish a run as any outside producer may."""
    run = tail.run("r")
    run.emit("run.started", {"task": "import", "input": {}})
    run.log("working")
    await run.emit("run.finished", {"result": {"rows": 3}})
    assert await run.result() == {"rows": 3}


@pytest.mark.parametrize("id", ["", "a/b", "a b", "..", "x" * 65, "a~b~c", "ä"])
async def test_bad_run_ids_are_refused(tail: Tailrace, id: str) -> None:
    """A name that no URL and no key may carry is refused before anything is sent."""
    with pytest.raises(BadName):
        tail.run(id)


async def test_bad_events_are_refused(tail: Tailrace) -> None:
    """Types and data that cannot be stored are refused, and name what is wrong."""
    run = tail.run("r")
    for type in ("", "a..b", "ä", "tailrace.gap", "x" * 129):
        with pytest.raises(BadEvent):
            run.emit(type)
    with pytest.raises(BadEvent, match="cannot be written as JSON"):
        run.emit("x", object())
    with pytest.raises(BadEvent, match="at most 65,536"):
        run.emit("x", "y" * 70_000)
    with pytest.raises(RunNotFound):
        await run.state()


async def test_broken_text_outside_of_data_stops_nobody(tail: Tailrace) -> None:
    """Labels, tasks and asks that cannot be a field of the server's are refused at once; other runs' events go out."""
    other = tail.run("other").log("at the same time")
    run = tail.run("r")
    with pytest.raises(BadInput, match=r"labels\.user"):
        run.emit("order.paid", {}, labels={"user": "\ud800"})
    with pytest.raises(BadInput, match="task"):
        run.emit("run.queued", {"task": "\ud800"})
    with pytest.raises(BadInput, match=r"data\.ask"):
        run.emit("run.waiting", {"ask": "\ud800"})
    with pytest.raises(BadEvent, match="ask is"):
        await run.answer(True, ask="\ud800")
    with anyio.fail_after(5):
        assert (await other).startswith("1-")


async def test_a_queued_run_names_its_task(tail: Tailrace) -> None:
    """Nobody could ever execute a run that waits for no task, so it is refused before anything is sent."""
    run = tail.run("r")
    with pytest.raises(BadName, match="task"):
        run.emit("run.queued", {"input": {}})
    with pytest.raises(RunNotFound):
        await run.state()


async def test_follow_goes_on_from_a_cursor(tail: Tailrace) -> None:
    """A reader that comes back with an ID gets what stands behind it."""
    run = tail.run("r")
    ids = [await run.log(str(n)) for n in range(5)]
    assert [event.id async for event in run.follow(after=ids[2], live=False)] == ids[3:]
    with pytest.raises(BadCursor):
        async for _ in run.follow(after="3"):
            pass
    with pytest.raises(RunNotFound):
        async for _ in tail.run("other").follow():
            pass


async def test_follow_is_live_and_ends_with_the_run(tail: Tailrace) -> None:
    """Followers see what is written while they follow, once and in order, and stop at the end."""
    seen: list[str] = []
    begun = anyio.Event()

    async def follow() -> None:
        async for event in tail.run("r").follow():
            seen.append(event.id)
            begun.set()

    with anyio.fail_after(10):
        async with asyncio.TaskGroup() as tasks, tail.run("r") as run:
            tasks.create_task(follow())
            run.log("first")
            await begun.wait()
            for n in range(500):
                run.write(f"{n} ")
    assert seen == [event.id for event in await everything(run)]
    assert len(seen) == 505


async def test_followers_hear_of_the_close(server: TestServer, namespace: str) -> None:
    """Who follows or waits for a result when the Tailrace is closed is told, and does not wait for ever."""
    tail = Tailrace(server.url, namespace=namespace)
    run = tail.run("r")
    await run.log("begun")
    waiting = asyncio.create_task(run.result())
    following = asyncio.create_task(_followed(run))
    topics = (await tail.session()).topics
    await until(lambda: [len(topic.attached) for topic in topics._topics.values()] == [2], "both are live")
    await tail.close()
    with anyio.fail_after(5):
        for task in (waiting, following):
            with pytest.raises(ServerUnreachable, match="its Tailrace was closed"):
                await task


async def _followed(run: Run) -> list[Event]:
    return [event async for event in run.follow()]


async def test_result_waits(tail: Tailrace) -> None:
    """result() returns when the run has ended, and raises TimeoutError when told how long to wait."""
    async with tail.run("r"):
        with pytest.raises(TimeoutError):
            await tail.run("r").result(timeout_seconds=0.05)
        waiting = asyncio.create_task(tail.run("r").result())
    with anyio.fail_after(5):
        assert await waiting is None


async def test_links_are_signed(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link carries namespace, run and end, signed; without a key there is none."""
    import jwt

    from processor.core.errors import SettingsError

    with pytest.raises(SettingsError, match="TAILRACE_JWT_KEY"):
        tail.run("r").link()
    key = "k" * 32
    signed = Tailrace(settings=tail.settings.changed("test", jwt_key=key, public_url="https://example.com"))
    url = signed.run("T~r").link(seconds=60)
    assert url.startswith(f"https://example.com/api/{tail.settings.namespace}/runs/T~r/events?token=")
    claims = jwt.decode(url.partition("token=")[2], key, algorithms=["HS256"])
    assert (claims["ns"], claims["run"]) == (tail.settings.namespace, "T~r")
