"""What a test may leave behind: keys of the kinds that DESIGN 2 lists, and nothing of an ended run without a TTL."""

from __future__ import annotations

import re

import redis

__all__ = ["leaks"]

_PARTITION_KINDS = (
    r"run:.+|feed:.+|work:.+|thread:.+|log|index|owners|deadlines|delayed|delayed:body|"
    r"dead:task:.+|dead:group:.+|lease:.+|outbox|marks|meta"
)
_NAMESPACE_KINDS = r"topology|groups|group:.+|workers|schedules|keys|rate:.+|limit:.+|inlet:.+"
_KNOWN = re.compile(
    rf"tr:\{{[a-z0-9][a-z0-9-]*:\d+\}}:({_PARTITION_KINDS})|tr:\{{[a-z0-9][a-z0-9-]*\}}:({_NAMESPACE_KINDS})"
)
_TERMINAL = (b"succeeded", b"failed", b"cancelled")


def leaks(client: redis.Redis) -> list[str]:
    """One sentence for each key that should not be there, or not for ever."""

    def ended(name: str) -> bool:
        if ":run:" not in name and ":feed:" not in name:
            return False
        return client.hget(name.replace(":feed:", ":run:", 1), "status") in _TERMINAL

    found = []
    keys: list[bytes] = sorted(client.scan_iter(count=1000))
    for key in keys:
        if client.pttl(key) != -1:  # expires, or has just gone
            continue
        name = key.decode()
        if not _KNOWN.fullmatch(name):
            found.append(f"{name} has no TTL and is no kind of key that DESIGN 2 lists")
        elif ended(name):
            found.append(f"{name} belongs to an ended run and has no TTL")
    return found
