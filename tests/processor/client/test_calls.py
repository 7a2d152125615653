"""A task calls a task. The test plays the worker that executes the children."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from processor import Retry, Run, SyncRun, Tailrace
from processor.client.calling import invoke
from processor.core.errors import BadInput, RunCancelled, RunExists, RunFailed
from tests.support.until import until


async def children(tail: Tailrace) -> list[Run]:
    """All runs of the task `child`."""
    return [tail.run(state.run) async for state in tail.runs(task="child")]


class Nursery:
    """Hands out the children one by one. Not by their times: two may be queued and ended within one millisecond."""

    def __init__(self, tail: Tailrace) -> None:
        self._tail = tail
        self._known: set[str] = set()

    async def next(self) -> Run:
        """The child that was not there before, once it is queued."""
        found: list[Run] = []

        async def there() -> bool:
            found[:] = [run for run in await children(self._tail) if run.id not in self._known]
            return bool(found)

        await until(there, "another child is queued")
        assert len(found) == 1
        self._known.add(found[0].id)
        return found[0]


@pytest.fixture
def nursery(tail: Tailrace) -> Nursery:
    return Nursery(tail)


async def finish(run: Run, result: object) -> None:
    await run.emit("run.started")
    await run.emit("run.finished", {"result": result})


async def fail(run: Run, error: str, reason: str = "error") -> None:
    await run.emit("run.started")
    await run.emit("run.failed", {"error": error, "reason": reason})


async def test_a_child_is_queued_and_its_result_returned(tail: Tailrace, nursery: Nursery) -> None:
    """call starts a child of the same root, under a name that says who called what, and waits for its result."""

    @tail.task
    async def child(run: Run, n: int, *, more: str = "") -> int:
        return n

    @tail.task
    async def parent(run: Run) -> list[int]:
        return [await child.call(1), await child.options(labels={"a": "b"}).call(1), await child.call(2, more="x")]

    run = await parent.options(id="root~name").start_here()
    names = []
    with anyio.fail_after(10):
        for number in (1, 2, 3):
            waiting = await nursery.next()
            names.append(waiting.id)
            await finish(waiting, number * 10)
        assert await run.result() == [10, 20, 30]
    assert len(set(names)) == 3
    assert all(len(name) == len("root~") + 16 and name.startswith("root~") for name in names)
    first = [event async for event in tail.run(names[2]).follow(live=False)][0]
    assert (first.type, first.data) == ("run.queued", {"task": "child", "input": {"n": 2, "more": "x"}})
    assert (await tail.run(names[1]).state()).labels == {"a": "b"}


async def test_the_next_attempt_reuses_what_finished_and_starts_what_failed_anew(
    tail: Tailrace, nursery: Nursery
) -> None:
    """A parent that is tried again gets the results of finished children at once, waits for running ones, repeats failed ones."""
    tries = 0

    @tail.task
    async def child(run: Run, name: str) -> str:
        return name

    @tail.task(retry=Retry(attempts=3, base_seconds=0.001))
    async def parent(run: Run) -> list[str]:
        nonlocal tries
        tries += 1
        done = [await child.call("done")]
        if tries == 1:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await child.call("slow")
        else:
            done.append(await child.call("slow"))
        return [*done, await child.call("failing")]

    with anyio.fail_after(10):
        run = await parent.start_here()
        await finish(await nursery.next(), "done")
        slow = await nursery.next()
        failing = await nursery.next()
        await fail(failing, "ValueError: no")
        await until(lambda: tries == 2, "the parent is tried again")
        await finish(slow, "slow")
        again = await nursery.next()
        assert again.id == f"{failing.id}.2"
        await again.cancel()
        await until(lambda: tries == 3, "the parent is tried once more")
        once_more = await nursery.next()
        assert once_more.id == f"{failing.id}.3"
        await finish(once_more, "at last")
        assert await run.result() == ["done", "slow", "at last"]


@pytest.mark.parametrize("reason", ["given_up", "poison"])
async def test_a_child_that_no_further_try_can_help_is_not_started_anew(
    tail: Tailrace, nursery: Nursery, reason: str
) -> None:
    """The parent's next attempt is told the same failure again."""
    tries = 0

    @tail.task
    async def child(run: Run) -> None: ...

    @tail.task(retry=Retry(attempts=2, base_seconds=0.001))
    async def parent(run: Run) -> None:
        nonlocal tries
        tries += 1
        await child.call()

    with anyio.fail_after(10):
        run = await parent.start_here()
        await fail(await nursery.next(), "no such order", reason)
        with pytest.raises(RunFailed, match="no such order"):
            await run.result()
    assert tries == 2
    assert len(await children(tail)) == 1


async def test_the_end_of_a_child_is_raised(tail: Tailrace, nursery: Nursery) -> None:
    """A child that fails or is cancelled raises that in its parent, which may go on."""

    @tail.task
    async def child(run: Run) -> None: ...

    @tail.task(retry=1)
    async def parent(run: Run) -> str:
        with pytest.raises(RunFailed, match="no luck") as failed:
            await child.call()
        with pytest.raises(RunCancelled):
            await child.call()
        return failed.value.run

    with anyio.fail_after(10):
        run = await parent.start_here()
        first = await nursery.next()
        await fail(first, "no luck")
        await (await nursery.next()).cancel("enough")
        assert await run.result() == first.id


async def test_a_cancel_reaches_the_children(tail: Tailrace, nursery: Nursery) -> None:
    """Whoever cancels the parent cancels the child that it waits for, with the same reason."""

    @tail.task
    async def child(run: Run) -> None: ...

    @tail.task
    async def parent(run: Run) -> None:
        await child.call()

    with anyio.fail_after(10):
        run = await parent.start_here()
        waiting = await nursery.next()
        await run.cancel("no longer needed")
        with pytest.raises(RunCancelled, match="no longer needed"):
            await waiting.result()
        with pytest.raises(RunCancelled):
            await run.result()


async def test_a_try_that_ends_otherwise_leaves_its_child(tail: Tailrace, nursery: Nursery) -> None:
    """A parent whose time is over is tried again and finds the child that it waited for."""
    tries = 0

    @tail.task
    async def child(run: Run) -> None: ...

    @tail.task(timeout_seconds=0.2, retry=Retry(attempts=50, base_seconds=0.001))
    async def parent(run: Run) -> str:
        nonlocal tries
        tries += 1
        await child.call()
        return "done"

    with anyio.fail_after(10):
        run = await parent.start_here()
        waiting = await nursery.next()
        await until(lambda: tries > 2, "the parent was tried more than twice")
        await finish(waiting, None)
        assert await run.result() == "done"
    assert len(await children(tail)) == 1


async def test_a_child_may_be_named(tail: Tailrace, nursery: Nursery) -> None:
    """options(id=) names the child beside its parent: the same name is the same child, with another input RunExists."""

    @tail.task
    async def child(run: Run, n: int) -> int:
        return n

    @tail.task(retry=1)
    async def parent(run: Run) -> list[int]:
        named = child.options(id="one")
        first = await named.call(1)
        with pytest.raises(RunExists):
            await named.call(2)
        return [first, await named.call(1)]

    with anyio.fail_after(10):
        run = await parent.options(id="r").start_here()
        waiting = await nursery.next()
        assert waiting.id == "r~one"
        await finish(waiting, 1)
        assert await run.result() == [1, 1]


async def test_what_a_child_cannot_have_is_refused(tail: Tailrace) -> None:
    """A child has no thread and no delay, and its input is checked as at start."""

    @tail.task
    async def child(run: Run, n: int) -> int:
        return n

    @tail.task(retry=1)
    async def parent(run: Run) -> None:
        with pytest.raises(BadInput, match="not to a thread"):
            await child.options(thread="t").call(1)
        with pytest.raises(BadInput, match="begins at once"):
            await child.options(delay_seconds=1).call(1)
        with pytest.raises(BadInput, match="n is str, not int"):
            await child.call("x")  # type: ignore[arg-type]

    with anyio.fail_after(5):
        await (await parent.start_here()).result()
    assert not await children(tail)


async def test_outside_of_a_task_there_is_nobody_to_be_a_child_of(tail: Tailrace) -> None:
    """call outside of an execution, or behind its end, says what to do instead."""
    left: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    @tail.task
    async def child(run: Run) -> None: ...

    async def later() -> None:
        await over.wait()
        await child.call()

    @tail.task
    async def parent(run: Run) -> None:
        left.append(asyncio.create_task(later()))

    with pytest.raises(RuntimeError, match=r"child\.call\(\.\.\.\) outside of a task.*await child\.start"):
        await child.call()
    await invoke(parent, tail.run("r"), {})
    over.set()
    with pytest.raises(RuntimeError, match="outside of a task"):
        await left[0]
    assert not await children(tail)


async def test_a_plain_function_calls_by_sync(tail: Tailrace, nursery: Nursery) -> None:
    """In a thread `task.sync.call` is the same, and a cancel of the parent ends its wait and its child."""

    @tail.task
    async def child(run: Run, n: int) -> int:
        return n

    @tail.task
    def parent(run: SyncRun) -> int:
        return child.sync.call(1) + child.sync.options(id="two").call(2)

    with anyio.fail_after(10):
        run = await parent.options(id="p").start_here()
        await finish(await nursery.next(), 10)
        second = await nursery.next()
        assert second.id == "p~two"
        await finish(second, 20)
        assert await run.result() == 30
        run = await parent.start_here()
        waiting = await nursery.next()
        await run.cancel("enough")
        for one in (waiting, run):
            with pytest.raises(RunCancelled, match="enough"):
                await one.result()


async def test_a_child_whose_result_has_expired_is_started_anew(tail: Tailrace, nursery: Nursery) -> None:
    """A parent that comes back when its child's events are gone has it done again rather than failing."""

    @tail.task
    async def child(run: Run) -> int:
        return 1

    @tail.task(retry=1)
    async def parent(run: Run) -> int:
        return await child.options(id="c").call()

    with anyio.fail_after(10):
        first = await parent.options(id="r~1").start_here()
        await finish(await nursery.next(), 1)
        assert await first.result() == 1
        session = await tail.session()
        await session.redis.delete(session.keys.of("r").feed("r~c"))
        second = await parent.options(id="r~2").start_here()
        anew = await nursery.next()
        assert anew.id == "r~c.2"
        await finish(anew, 2)
        assert await second.result() == 2


async def _are(tail: Tailrace, number: int) -> bool:
    return len(await children(tail)) == number


async def test_calls_at_once_have_names_of_their_own(tail: Tailrace) -> None:
    """Equal calls side by side are different children, told apart by how many there were before."""

    @tail.task
    async def child(run: Run) -> int:
        return 1

    @tail.task
    async def parent(run: Run) -> list[int]:
        return await asyncio.gather(*(child.call() for _ in range(5)))

    with anyio.fail_after(10):
        run = await parent.start_here()
        await until(lambda: _are(tail, 5), "five children are queued")
        for waiting in await children(tail):
            await finish(waiting, 7)
        assert await run.result() == [7] * 5
