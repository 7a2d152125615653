"""Groups of reactions: what their members bind together, told to the namespace (group.lua) and to each partition (bind.lua)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import structlog

from processor.core.errors import BadInput
from processor.core.routing import Binding, increments
from processor.store.connection import uncancelled
from processor.store.space import Scripted, Space

__all__ = ["FORGET_SECONDS", "Bound", "Declared", "Mode", "WhenBehind", "bind", "read_cuts"]

log = structlog.get_logger("tailrace.groups")
Mode = Literal["shared", "ordered"]
WhenBehind = Literal["detach", "refuse"]
FORGET_SECONDS: Final = 3600.0  # a rolling deploy takes minutes; what nobody handles any more waits no longer


@dataclass(frozen=True, slots=True)
class Declared:
    """A group as one process has it."""

    name: str
    mode: Mode
    bindings: Sequence[Binding]
    start: Literal["first", "now"] = "first"
    when_behind: WhenBehind = "detach"


class Bound(NamedTuple):
    """What all members of a group bind together."""

    version: str
    bindings: tuple[Binding, ...]


async def bind(space: Scripted, group: Declared) -> Bound:
    """Tells what a process handles, and binds all of it in every partition. Called again it keeps the bindings alive.

    Raises BadInput where the group is known in another mode, redis-py's errors.
    """
    keys = space.keys
    args: list[str | bytes | int] = [group.name, group.mode, group.when_behind, group.start, int(FORGET_SECONDS * 1000)]
    args += [binding.text for binding in group.bindings]
    word, *told = await space.scripts.call("group", [keys.groups, keys.group(group.name)], args)
    if word == b"other":
        raise _other_mode(group, told[0].decode())
    version, start, behind, *texts = (text.decode() for text in told)
    bound = Bound(version, tuple(_parsed(group.name, texts)))
    await _bind_partitions(space, group.name, bound, start, behind)
    return bound


async def read_cuts(space: Space, groups: Sequence[str]) -> dict[tuple[str, int], str]:
    """Where the log was cut off behind a group that was too far behind: (group, partition) → the first entry left. One round
    trip. Raises redis-py's errors."""
    redis: Any = space.redis
    async with redis.pipeline(transaction=False) as pipe:
        for keys in space.keys.partitions:
            pipe.execute_command("HMGET", keys.meta, *(f"cut:{group}" for group in groups))
        rows = await uncancelled(pipe.execute())
    return {
        (group, partition): first.decode()
        for partition, row in enumerate(rows)
        for group, first in zip(groups, row, strict=True)
        if first
    }


async def _bind_partitions(space: Scripted, group: str, bound: Bound, start: str, behind: str) -> None:
    """One round trip."""
    script = space.scripts.named("bind")
    types = increments(bound.bindings)
    redis: Any = space.redis
    async with redis.pipeline(transaction=False) as pipe:
        pipe.execute_command("SCRIPT", "LOAD", script.text)
        for keys in space.keys.partitions:
            pipe.execute_command(
                "EVALSHA", script.sha, 2, keys.meta, keys.log, group, start, behind, bound.version, *types
            )
        _, *words = await uncancelled(pipe.execute())
    if b"bound" in words:
        log.info("group_bound", group=group, bindings=[binding.text for binding in bound.bindings])


def _parsed(group: str, texts: Sequence[str]) -> list[Binding]:
    bindings = []
    for text in texts:
        try:
            bindings.append(Binding.parse(text))
        except (BadInput, ValueError):
            log.warning("binding_unreadable", group=group, binding=text)  # a newer release told it
    return bindings


def _other_mode(group: Declared, mode: str) -> BadInput:
    words = {"shared": "without ordered=True", "ordered": "with ordered=True"}
    return BadInput(
        f"group {group.name} was bound {words.get(mode, mode)}, and this process has it {words[group.mode]}.",
        remedy=f"Give the new one another name, or remove the old one: tailrace groups delete {group.name}",
        field="group",
        value=group.name,
    )
