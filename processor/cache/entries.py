"""Entries of the cache on the server: the only callers of the scripts cache_*.lua."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from processor.store.connection import uncancelled
from processor.store.space import Scripted, Space, ms_of

__all__ = ["Taken", "drop", "peek", "put", "renew", "take"]


class Taken(NamedTuple):
    """word: hit (frame, left_ms of it), mine (with frame: that is still good), wait (left_ms of the claim)."""

    word: Literal["hit", "mine", "wait"]
    frame: bytes | None = None
    left_ms: int = 0


async def take(space: Scripted, key: str, token: str, term_ms: int, stretch: float) -> Taken:
    """As cache_take.lua's header says."""
    word, *rest = await space.scripts.call("cache_take", [key], [token, term_ms, f"{stretch:.6f}"])
    if word == b"wait":
        return Taken("wait", None, int(rest[0]))
    frame, left = (rest[0], int(rest[1])) if rest else (None, 0)
    return Taken("hit" if word == b"hit" else "mine", frame, left)


async def renew(space: Scripted, key: str, token: str, term_ms: int) -> bool:
    """False if the claim is lost."""
    return bool((await space.scripts.call("cache_renew", [key], [token, term_ms]))[0] == b"renewed")


async def put(space: Scripted, key: str, token: str, frame: bytes, ttl_ms: int, took_ms: int) -> bool:
    """False if the claim is lost, or the entry was dropped since."""
    return bool((await space.scripts.call("cache_put", [key], [token, frame, max(1, ttl_ms), took_ms]))[0] == b"put")


async def drop(space: Scripted, key: str, token: str = "") -> bool:
    """Gives up the claim of that token, or drops the whole entry. False if there was none."""
    return bool((await space.scripts.call("cache_drop", [key], [token]))[0] == b"dropped")


async def peek(space: Space, key: str) -> tuple[bytes, int] | None:
    """The frame and the ms that are left of it. One round trip, nothing is claimed."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        untyped.execute_command("HMGET", key, "v", "until")
        time, (frame, until) = await uncancelled(untyped.execute())
    left = int(until or 0) - ms_of(time)
    return (frame, left) if frame is not None and left > 0 else None
