"""`tailrace show` of runs that have children."""

from __future__ import annotations

import re
from collections.abc import Callable

from processor import Run, Tailrace
from processor.flows import chain, group
from processor.testing import sandbox
from tests.processor.cli.conftest import Cli, Terminal

tail = Tailrace()


@tail.task
async def fetch(run: Run, n: int) -> int:
    return n


@tail.task
async def parse(run: Run, n: int) -> int:
    return await fetch.call(n)


@tail.task(retry=1)
async def fails(run: Run) -> int:
    raise ValueError("no luck\nat all")


@tail.task
async def asks(run: Run) -> int:
    return await run.ask("how many?", int)


@tail.task
async def store(run: Run, numbers: list[int]) -> int:
    return len(numbers)


FLOW = chain(
    fetch.bind(1),
    group(parse.bind(), fails.bind(), asks.bind(), on_failure="ignore", deadline_seconds=3600),
    store.bind(),
)


async def test_a_flow_is_a_tree(cli: Cli, terminal: Callable[..., Terminal]) -> None:
    """Each child stands in its place with its state, attempts and time, its own children below it, and what is not begun too."""
    async with sandbox(tail, server=True) as box:
        run = await FLOW.options(id="flow").start()
        await box.drain()
        env: dict[str, str | None] = {"TAILRACE_REDIS_URL": box.url}
        shown = terminal("show", run.id, env=env)
        assert await shown.ended() == 0
        record = (await cli.here("show", run.id, env=env)).records[0]
        child = record["children"][0]["children"][1]["children"][0]["run"]
        inner = (await cli.here("show", child, env=env)).records[0]
    tree = shown.seen[shown.seen.index("CHILD") :].splitlines()
    names = ["chain", "├─ fetch", "├─ group (ignore, 3600 s)", "│  ├─ parse", "│  │  └─ fetch", "│  ├─ fails"]
    assert tree[0].split() == ["CHILD", "STATUS", "ATTEMPT", "TOOK", "RUN", "ERROR"]
    width = tree[0].index("STATUS")
    assert [line[:width].rstrip() for line in tree[1:]] == [*names, "│  └─ asks", "└─ store"]
    assert re.fullmatch(r"├─ fetch +succeeded +1 +\S+ m?s +flow~\w{16}\s*", tree[2])
    assert re.fullmatch(r"│  ├─ fails +failed +1 +\S+ m?s +flow~\w{16} +ValueError: no luck", tree[6])
    assert re.fullmatch(r"└─ store +not begun +flow~\w{16}\s*", tree[8])
    (top,) = record["children"]
    assert (top["join"], [one.get("task") for one in top["children"]]) == ("chain", ["fetch", None, "store"])
    joined = top["children"][1]
    assert (joined["join"], joined["on_failure"], joined["deadline_seconds"]) == ("group", "ignore", 3600)
    parsed, failed, asking = joined["children"]
    assert [one["status"] for one in (parsed, failed, asking)] == ["succeeded", "failed", "waiting"]
    assert failed["error"].startswith("ValueError: no luck")
    assert [one["task"] for one in parsed["children"]] == ["fetch"]
    assert {"run", "task", "status", "attempt", "created", "ended"} == parsed["children"][0].keys()
    assert top["children"][2] == {"run": top["children"][2]["run"], "task": "store", "status": "not begun"}
    assert [(one["run"], one["task"]) for one in inner["children"]] == [(parsed["children"][0]["run"], "fetch")]


async def test_a_run_without_children_has_no_tree(cli: Cli) -> None:
    """Nothing is said of children where there are none."""
    await cli.here("start", "answer", "--id", "01k9x4")
    assert "children" not in (await cli.here("show", "01k9x4")).records[0]


async def test_odd_facts_are_no_children(cli: Cli) -> None:
    """An event of that type from anybody is read as far as it goes."""
    await cli.here("emit", "r", "child.started", "7")
    await cli.here("emit", "r", "child.started", '{"run": "gone", "task": "x"}')
    record = (await cli.here("show", "r")).records[0]
    assert record["children"] == [{"run": "gone", "task": "x", "status": "expired"}]
