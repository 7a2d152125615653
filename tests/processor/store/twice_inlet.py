"""Calls of an inlet's scripts that test_lua_headers.py makes twice."""

from __future__ import annotations

from collections.abc import Callable

from tests.processor.store.stage import Stage

__all__ = ["INLETS_TWICE"]


def _inlet(stage: Stage) -> None:
    key = stage.keys.prefix + "inlet:orders"  # of the partition's slot, where the test looks
    assert stage.run(stage.scripts.call("inlet", [key], ["orders", "5-0", 3, 0, "5-0", 7, "4-1"])) == b"noted"
    assert stage.run(stage.scripts.call("inlet", [key], ["orders", "4-9", 2, 0, "4-9"])) == b"behind"
    assert stage.run(stage.scripts.call("inlet", [key], ["invoices", "6-0", 4])) == b"other orders"
    stage.client.expire(key, 60)  # of no kind that a partition has


def _set_aside(stage: Stage) -> None:
    keys = [stage.keys.marks, stage.keys.dead_group("orders")]
    reply = stage.run(
        stage.scripts.call("set_aside", keys, ["in:orders", "0-0", "5-0", 100, "x", "5-0", "reason", "no"])
    )
    assert reply in (b"taken", b"duplicate")
    assert stage.run(stage.scripts.call("set_aside", keys, ["in:orders", "4-0", "6-0", 100, "x", "6-0"])) == b"hole 5-0"
    assert stage.client.xlen(keys[1]) == 1


INLETS_TWICE: dict[str, Callable[[Stage], None]] = {"inlet": _inlet, "set_aside": _set_aside}
