"""Balance: which member of an ordered group reads which partitions. Members agree without a leader, since each decides the same
from what all of them told."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["ALIVE_MS", "Member", "Moves", "entitled", "moves", "quotas"]

ALIVE_MS: Final = 5_000  # it tells every second


class Member(NamedTuple):
    """As it told of itself; times in ms of the server's clock."""

    name: str
    since: int
    seen: int
    handles: frozenset[str]  # bindings, as texts


class Moves(NamedTuple):
    """What one member does about its leases now."""

    take: Sequence[int]  # partitions whose lease nobody has, at most so many as it lacks
    give: Sequence[int]  # its own ones; those that nothing runs of come first


def entitled(members: Sequence[Member], now_ms: int, bound: Collection[str]) -> list[str]:
    """Those alive that read, in the order in which they joined: who handles all that the group binds, or if nobody does, all."""
    alive = [one for one in members if now_ms - one.seen < ALIVE_MS]
    wanted = frozenset(bound).union(*(one.handles for one in alive))
    return [one.name for one in alive if one.handles >= wanted] or [one.name for one in alive]


def quotas(members: Sequence[str], partitions: int) -> dict[str, int]:
    """How many each may have. They differ by one at most; who joined first has the larger ones, and of more members than
    partitions the last have none."""
    if not members:
        return {}
    each, rest = divmod(partitions, len(members))
    return {name: each + (place < rest) for place, name in enumerate(members)}


def moves(quota: int, mine: Mapping[int, int], free: Sequence[int], *, leaving: Collection[int] = ()) -> Moves:
    """mine: partitions that it has, each with the calls that run of it. leaving: those of them that it is about to give.
    free: those that nobody has, in the order in which it should try them."""
    kept = {partition: calls for partition, calls in mine.items() if partition not in leaving}
    lacking, excess = max(0, quota - len(mine)), max(0, len(kept) - quota)
    give = sorted(kept, key=lambda partition: (kept[partition], partition))[:excess]
    return Moves(list(free[:lacking]), give)
