"""A namespace on a server, as those who read it need it."""

from __future__ import annotations

from typing import Any, Protocol

from redis.asyncio import Redis

from processor.core.keys import Keyspace
from processor.store.scripts import Scripts

__all__ = ["Scripted", "Space", "ms_of"]


class Space(Protocol):
    """A namespace on a server; sessions are one."""

    @property
    def redis(self) -> Redis: ...

    @property
    def keys(self) -> Keyspace: ...


class Scripted(Space, Protocol):
    """And its scripts, for those who write."""

    @property
    def scripts(self) -> Scripts: ...


def ms_of(time: Any) -> int:
    """Milliseconds of a reply to TIME."""
    return int(time[0]) * 1000 + int(time[1]) // 1000
