"""What type checkers say of tasks: the editor is where most mistakes are found."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.pages import mypy

PROGRAM = """\
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from tailrace import Depends, Limit, Rate, Retry, Run, Schedule, SyncRun, Tailrace


async def told(run: Run, call_next: Callable[[Run], Awaitable[Any]]) -> Any:
    return await call_next(run)


tail = Tailrace(imports=["shop.tasks"], middleware=[told])


@tail.middleware
async def timed(run: Run, call_next: Callable[[Run], Awaitable[Any]]) -> Any:
    return await call_next(run)


class Connection: ...


async def connection(run: Run) -> AsyncIterator[Connection]:
    yield Connection()


@tail.task
async def short(run: Run, prompt: str) -> int:
    return 1


@tail.task
def plain(run: SyncRun, prompt: str) -> int:
    return short.sync.call(prompt)


@tail.task(retry=Retry(attempts=5), timeout_seconds=60, concurrency=8, rate="60/min", limit=4)
async def whole(run: Run, prompt: str, *, times: int = 2, db: Connection = Depends(connection)) -> dict[str, str]:
    return {"text": prompt * times}


@tail.task(cron="0 7 * * 1-5")
async def daily(run: Run) -> None: ...


@tail.task(cron=Schedule(every_seconds=60), rate=Rate("5/s", by="user"), limit=Limit(2, by="user"))
async def minutely(run: Run) -> None: ...


@tail.task(name="blocking", retry=1)
def blocking(run: SyncRun, n: int) -> str:
    return str(n)


async def main() -> None:
    reveal_type(await (await short.start("why?")).result())  # R: int
    reveal_type(await short.call("why?"))  # R: int
    reveal_type(await (await whole.start("why?", times=3)).result())  # R: dict[str, str]
    reveal_type(await whole.options(id="x").call("why?"))  # R: dict[str, str]
    reveal_type(await (await blocking.start_here(1)).result())  # R: str
    reveal_type(blocking.sync.call(1))  # R: str
    reveal_type(plain.sync.start("x").result())  # R: int
    reveal_type(tail.load_imports())  # R: list[str]
    await short.start(1)  # E: expected "str"
    await short.start()  # E: Missing positional argument
    await short.call(1)  # E: expected "str"
    await whole.call("a", 3)  # E: Too many positional arguments
    await whole.start("a", times="3")  # E: expected "int"
    await whole.options(id="x").start("a", tmes=3)  # E: Unexpected keyword argument
    blocking.sync.call("1")  # E: expected "int"


@tail.task(rate=5)  # E: No overload variant
async def wrong(run: Run) -> None: ...


@tail.task(retry=2)  # E: Argument 1
async def also_wrong(prompt: str) -> None: ...


Tailrace(middleware=[connection])  # E: List item 0
"""


def test_programs_are_typed(tmp_path: Path) -> None:
    """Arguments and results of start, start_here and call are known; what is wrong is an error in its line, and nothing else."""
    (tmp_path / "program.py").write_text(PROGRAM)
    done = mypy(tmp_path, "program.py")
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        found = re.match(r"program\.py:(\d+): (?:error|note): (.*)", line)
        if found:
            said[int(found[1])] = f"{said.get(int(found[1]), '')}{found[2]}\n"
    wanted: dict[int, str] = {}
    for number, line in enumerate(PROGRAM.splitlines(), 1):
        if kind := re.search(r"# ([RE]): (.*)$", line):
            text = f'Revealed type is "{kind[2]}"' if kind[1] == "R" else kind[2]
            wanted[number] = text
    assert said.keys() == wanted.keys(), done.stdout
    for number, text in wanted.items():
        assert text in said[number].replace("builtins.", ""), said[number]
