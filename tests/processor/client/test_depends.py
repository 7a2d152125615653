"""Dependencies: made once an execution, cleaned up behind it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import pytest

from processor import Depends, Run, SyncRun, Tailrace
from processor.client.calling import invoke
from processor.client.depends import Dependency

did: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    did.clear()


@pytest.fixture
def tail() -> Tailrace:
    """Nothing here asks a server."""
    return Tailrace("redis://127.0.0.1:1")


def plain() -> str:
    did.append("plain")
    assert threading.current_thread() is not threading.main_thread()
    return "plain"


async def quick() -> str:
    return "quick"


def generated() -> Iterator[str]:
    did.append("open")
    try:
        yield "generated"
    finally:
        did.append("close")


async def streamed(base: str = Depends(generated)) -> AsyncIterator[str]:
    did.append("begin")
    yield f"streamed {base}"
    did.append("end")


class Repository:
    def __init__(self, run: Run, name: Annotated[str, Depends(quick)]) -> None:
        self.of = f"{run.id} {name}"


class Caller:
    async def __call__(self, run: Run[Any]) -> str:
        return run.id


async def test_every_kind_of_function(tail: Tailrace) -> None:
    """Plain and async functions, generators of both kinds, classes, objects and partials are dependencies."""

    @tail.task
    async def task(
        run: Run,
        a: str = Depends(plain),
        b: str = Depends(quick),
        c: str = Depends(generated),
        d: str = Depends(streamed),
        e: Repository = Depends(Repository),
        f: str = Depends(Caller()),
        g: int = Depends(functools.partial(max, 2, 3)),
        h: str = Depends(lambda: quick()),
    ) -> list[Any]:
        did.append("task")
        return [a, b, c, d, e.of, f, g, h]

    got = await invoke(task, tail.run("r"), {})
    assert got == ["plain", "quick", "generated", "streamed generated", "r quick", "r", 3, "quick"]
    assert did == ["plain", "open", "begin", "task", "end", "close"]


async def test_it_is_made_once_an_execution(tail: Tailrace) -> None:
    """However many ask for a dependency, an execution makes it once, and the next one anew."""
    made: list[object] = []

    async def one() -> object:
        made.append(object())
        return made[-1]

    async def two(one_: object = Depends(one)) -> object:
        return one_

    @tail.task
    async def task(run: Run, a: object = Depends(one), b: object = Depends(two), c: object = Depends(two)) -> bool:
        return a is b is c

    assert await invoke(task, tail.run("r"), {})
    assert await invoke(task, tail.run("r"), {})
    assert len(made) == 2


async def test_an_exception_reaches_the_generators(tail: Tailrace) -> None:
    """What the task raises is raised at each yield, innermost first; swallowing it changes nothing."""

    async def outer() -> AsyncIterator[None]:
        try:
            yield
        except ValueError as error:
            did.append(f"outer {error}")
            raise

    def swallowing(outer_: None = Depends(outer)) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            did.append(f"inner {error}")

    @tail.task
    async def task(run: Run, x: None = Depends(swallowing)) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await invoke(task, tail.run("r"), {})
    assert did == ["inner no", "outer no"]


async def test_a_generator_may_raise_something_else(tail: Tailrace) -> None:
    """An exception of the cleaning up takes the place of the task's, and fails a task that succeeded."""

    async def failing() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise LookupError("instead")

    @tail.task
    async def task(run: Run, fails: bool, x: None = Depends(failing)) -> None:
        if fails:
            raise ValueError("no")

    for fails in (True, False):
        with pytest.raises(LookupError, match="instead"):
            await invoke(task, tail.run("r"), {"fails": fails})


async def test_what_was_made_is_cleaned_up_when_the_next_fails(tail: Tailrace) -> None:
    """A dependency that cannot be made ends those before it, and the task does not begin."""

    async def broken() -> None:
        raise OSError("down")

    @tail.task
    async def task(run: Run, a: str = Depends(generated), b: None = Depends(broken)) -> None:
        did.append("task")

    with pytest.raises(OSError, match="down"):
        await invoke(task, tail.run("r"), {})
    assert did == ["open", "close"]


async def test_a_cancellation_cleans_up(tail: Tailrace) -> None:
    """A cancelled task's dependencies are cleaned up before the cancellation goes on, and may wait for that."""

    async def resource() -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            did.append("cancelled")
            raise

    begun = asyncio.Event()

    @tail.task
    async def task(run: Run, x: None = Depends(resource)) -> None:
        begun.set()
        await asyncio.sleep(30)

    executing = asyncio.create_task(invoke(task, tail.run("r"), {}))
    await begun.wait()
    executing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await executing
    assert did == ["cancelled"]


async def test_a_plain_task_and_its_dependencies_get_a_blocking_handle(tail: Tailrace) -> None:
    """SyncRun as a dependency's annotation is the run for code that blocks."""

    def name(run: SyncRun[Any]) -> str:
        assert isinstance(run, SyncRun)
        return run.id

    @tail.task
    def task(run: SyncRun, x: str = Depends(name)) -> str:
        return f"{run.id} {x}"

    assert await invoke(task, tail.run("r"), {}) == "r r"


async def test_the_run_may_be_known_to_type_checkers_only(tail: Tailrace) -> None:
    """A dependency's annotation Run counts where its name cannot be resolved."""

    async def name(handle: Run) -> str:
        return handle.id

    name.__annotations__["handle"] = "imported.Run[int]"

    @tail.task
    async def task(run: Run, x: str = Depends(name)) -> str:
        return x

    assert await invoke(task, tail.run("r"), {}) == "r"


def test_what_nothing_gives_is_told() -> None:
    """A parameter of a dependency that is neither one itself nor the run nor has a default is an error that names it."""

    def needy(name: str) -> str:
        return name

    with pytest.raises(TypeError, match=r"needy: nothing gives its parameter name"):
        Dependency(needy)


def test_a_circle_is_told() -> None:
    """Dependencies that need each other are an error that names them."""

    def first(x: None) -> None: ...

    def second(x: None = Depends(first)) -> None: ...

    first.__defaults__ = (Depends(second),)
    with pytest.raises(TypeError, match=r"first.* → .*second.* → .*first"):
        Dependency(first)


def test_only_functions_are_dependencies() -> None:
    """Depends of a value is a mistake at its place."""
    with pytest.raises(TypeError, match="takes a function, not 3"):
        Depends(3)  # type: ignore[arg-type]
