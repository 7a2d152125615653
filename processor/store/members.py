"""Consumers of groups that are gone (forget.lua). Taking over what they held is for members that run."""

from __future__ import annotations

from typing import Final

import structlog

from processor.core.keys import PartitionKeys
from processor.store.claims import SILENT_MS
from processor.store.connection import execute
from processor.store.space import Scripted

__all__ = ["forget_members", "recorded_groups"]

log = structlog.get_logger("tailrace.groups")
_NOBODY: Final = ""  # no consumer's name


async def recorded_groups(space: Scripted) -> list[str]:
    """Groups that members told of. Raises redis-py's errors."""
    names = await execute(space.redis, "HKEYS", space.keys.groups)
    return sorted(name.decode() for name in names)


async def forget_members(
    space: Scripted, keys: PartitionKeys, group: str, caller: str = _NOBODY, *, silent_ms: int = SILENT_MS
) -> list[str]:
    """Deletes consumers that were silent for an hour and have nothing pending, in one step; never the caller.

    Raises redis-py's errors.
    """
    deleted = await space.scripts.call("forget", [keys.log], [group, caller, silent_ms])
    names = [name.decode() for name in deleted]
    if names:
        log.info("members_forgotten", group=group, consumers=names)
    return names
