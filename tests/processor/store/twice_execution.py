"""Calls of start, settle and relay that test_lua_headers.py makes twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from processor.core.events import draft
from processor.core.keys import Keyspace
from processor.store.executing import GROUP, Output, Taken, Unit, settle_command, start_command
from processor.store.scripts import Batch, Packing
from tests.processor.store.stage import LAYOUT, Stage
from tests.processor.store.twice_inlet import INLETS_TWICE

__all__ = ["EXECUTIONS_TWICE"]

TWO = "2 abcdef"


def _taken(stage: Stage) -> Taken:
    """A run `d` in a worker's hands."""
    work = stage.keys.work("build")
    if not stage.client.exists(work):
        event = draft("run.queued", b"{}", task="build", start="s")
        stage.run(stage.scripts.append(stage.keys, LAYOUT, [Batch("d", "p:x", 0, 1, [event])]))
        stage.client.xgroup_create(work, GROUP, id="0")
        stage.client.xreadgroup(GROUP, "w", {work: ">"})
    rows = stage.client.xpending_range(work, GROUP, "-", "+", 1)
    entry = rows[0]["message_id"].decode() if rows else "1-1"
    return Taken("build", entry, "d", "1-1", b"{}")


def _start(stage: Stage) -> None:
    script, tasks = stage.scripts.named("start"), {"build": (3, [(_taken(stage), "n")])}
    command = start_command(script, stage.limits, stage.keys, "w", 100, tasks)
    assert stage.run(stage.scripts.send(script, command)) == [b"go 1 1"]


def _settle(stage: Stage) -> None:
    """With output for a run of this partition and for one of another."""
    taken = _taken(stage)
    if stage.client.hget(stage.keys.run("d"), "status") == b"queued":
        _start(stage)
    outputs = [Output("b", [draft("order.paid", b"{}")]), Output("a", [draft("order.paid", b"{}")])]
    payload = b'"type":"run.finished","data":{}}'
    unit = Unit("d", "build", taken.entry, "1-n", "finish", payload, outputs=outputs)
    script, namespace = stage.scripts.named("settle"), stage.keys.prefix.partition("{")[2].partition(":")[0]
    command = settle_command(script, stage.limits, Keyspace(namespace, TWO), 0, [unit])
    assert stage.run(stage.scripts.send(script, command))[0] in (b"settled succeeded", b"done")
    assert stage.client.xlen(stage.keys.outbox) == 1


def _relay(stage: Stage) -> None:
    call = Packing.of(stage.keys, stage.keys.marks)
    call.add_run("b")
    call.args += (1, "0-0", "5-0", "b")
    call.add_events([draft("order.paid", b"{}"), draft("run.finished", b"{}")])
    script = stage.scripts.named("relay")
    reply: Any = stage.run(stage.scripts.send(script, call.command(script, LAYOUT, stage.limits)))
    assert reply[0] in (b"taken", b"duplicate")


EXECUTIONS_TWICE: dict[str, Callable[[Stage], None]] = {
    "start": _start,
    "settle": _settle,
    "relay": _relay,
    **INLETS_TWICE,
}
