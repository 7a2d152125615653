"""Calls of react and skip that test_lua_headers.py makes twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from processor.core.events import draft, plain
from processor.core.keys import Keyspace
from processor.store.emitting import Emitted, emit_command
from processor.store.executing import Output
from processor.store.reacting import (
    Delivery,
    ReactUnit,
    react_command,
    skip_command,
)
from processor.store.scripts import Batch
from tests.processor.store.stage import LAYOUT, Stage

__all__ = ["REACTIONS_TWICE"]


def _delivered(stage: Stage, count: int) -> list[Delivery]:
    """Entries of the log in the hands of a member of group `g`; when asked again the same ones."""
    stage.run(stage.scripts.bind(stage.keys, "g"))
    if not stage.client.exists(stage.keys.meta + ":given"):
        event = draft("order.paid", b"1")
        stage.run(stage.scripts.append(stage.keys, LAYOUT, [Batch("d", "p:x", 0, 1, [event] * count)]))
        stage.client.xreadgroup("g", "me", {stage.keys.log: ">"})
        stage.client.set(stage.keys.meta + ":given", "")
    entries: Any = stage.client.xrange(stage.keys.log, count=count)
    return [
        Delivery(0, id.decode(), fields[b"r"].decode(), fields[b"i"].decode(), fields[b"e"]) for id, fields in entries
    ]


def _react(stage: Stage) -> None:
    """Outputs here and elsewhere, a retry and a dead letter."""
    keyspace = Keyspace(stage.keys.prefix[4:].partition(":")[0], "2 abcdef")
    keyspace.partitions[0] = stage.keys
    one, two, three, four = _delivered(stage, 4)
    here = next(f"h{n}" for n in range(100) if keyspace.number(f"h{n}") == 0)
    there = next(f"h{n}" for n in range(100) if keyspace.number(f"h{n}") == 1)
    events = [plain("seen", b'"type":"seen","data":1}')] * 2
    units = [
        ReactUnit([one, two], "done", [Output(here, events), Output(there, events)]),
        ReactUnit([three], "retry", delay_ms=1000, tries=1),
        ReactUnit([four], "dead", failure=b"{}"),
    ]
    script = stage.scripts.named("react")
    command = react_command(script, stage.limits, keyspace, 0, "g", units)
    answers = stage.run(stage.scripts.send(script, command))
    assert answers in ([b"settled"] * 3, [b"done"] * 3)


def _emit(stage: Stage) -> None:
    """Two entries that write to one run, one that writes to a run that is not there, and one without output."""
    one, two, three, four = _delivered(stage, 4)
    payload = b'"type":"seen","data":1}'
    made = [Emitted(one.entry, "d", payload), Emitted(two.entry, "d", payload), Emitted(three.entry, "nobody", payload)]
    script = stage.scripts.named("emit")
    command, places = emit_command(script, stage.limits, stage.keys, "g", "me", [*made, Emitted(four.entry)])
    words = stage.run(stage.scripts.send(script, command))
    assert places == [0, 1, 2]
    assert words in ([b"settled", b"settled", b"look"], [b"done", b"done", b"look"])


def _skip(stage: Stage) -> None:
    entries = [one.entry for one in _delivered(stage, 2)]
    script = stage.scripts.named("skip")
    for version, word in (("2", b"changed"), ("1", b"skipped")):
        command = skip_command(script, stage.keys, "g", version, entries)
        assert stage.run(stage.scripts.send(script, command)) == word
    assert stage.client.xpending(stage.keys.log, "g")["pending"] == 0


REACTIONS_TWICE: dict[str, Callable[[Stage], None]] = {"react": _react, "emit": _emit, "skip": _skip}
