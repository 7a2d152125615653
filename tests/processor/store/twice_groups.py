"""Scripts of groups called twice in the same partition, for tests of what their headers promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from processor.core.events import draft
from processor.store.scripts import Batch, partition_keys
from tests.processor.store.stage import Stage

__all__ = ["GROUPS_TWICE"]


def _bound(stage: Stage) -> None:
    """A group that was given one entry of two."""
    if "g" not in stage.model.groups:
        stage.bind("g", ["log"])
        stage.append([Batch("b", "p:x", 1, 2, [draft("usage", b"{}")] * 2)])
        stage.read_group("g", 1)


def _unbind(stage: Stage) -> None:
    _bound(stage)
    keys = stage.keys
    stage.run(
        stage.scripts.call("unbind", [keys.meta, keys.log, keys.delayed, keys.delayed_body, keys.lease("g")], ["g"])
    )
    assert not stage.client.exists(keys.log)


def _requeue_reaction(stage: Stage) -> None:
    _bound(stage)
    dead = stage.keys.dead_group("g")
    if stage.client.xlen(stage.keys.log) == 2:
        stage.client.xadd(dead, {"r": "b", "i": "1-1", "e": "{}", "f": "{}"}, id="1-0")
    stage.run(
        stage.scripts.call("requeue_reaction", [*partition_keys(stage.keys), dead, stage.keys.lease("g")], ["g", "1-0"])
    )
    assert stage.client.xlen(stage.keys.log) == 3


def _forget(stage: Stage) -> None:
    _bound(stage)
    stage.run(stage.scripts.call("forget", [stage.keys.log], ["g", "", 0]))
    [group] = stage.client.xinfo_groups(stage.keys.log)
    assert group["consumers"] == 1


GROUPS_TWICE: Mapping[str, Callable[[Stage], None]] = {
    "unbind": _unbind,
    "requeue_reaction": _requeue_reaction,
    "forget": _forget,
}
