"""Leases of ordered groups: who reads a partition, and until when (lease.lua), what is read under it (pull.lua), and which members
live (member.lua)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from processor.core.balance import Member
from processor.core.json import dumps, loads
from processor.core.keys import PartitionKeys
from processor.store.connection import uncancelled
from processor.store.reacting import Delivery, delivery_of
from processor.store.scripts import Script
from processor.store.space import Scripted

__all__ = ["Leases", "Members", "Pulled", "Taken", "owners", "pull_command", "pulled", "renew_lease_command"]

FORGET_MS: Final = 60_000  # a member that said nothing for so long joins anew
NOTHING: Final = b'"type":"","data":null}'  # the event of an entry that somebody added by hand
Command = tuple[bytes | str | int, ...]


class Taken(NamedTuple):
    """What became of a try to take a lease."""

    word: Literal["taken", "held", "quiet"]
    token: str = ""
    is_lost: bool = (
        False  # whoever had it before went without giving it back: what was delivered and not settled is suspect
    )
    stopped: Sequence[str] = ()  # runs of which nothing is handled
    owner: str = ""  # of held
    until_ms: int = 0  # of held: by the server's clock


class Pulled(NamedTuple):
    """A pull's answer."""

    word: Literal["again", "new", "fenced", "hole", "nogroup"]
    version: str = ""  # of what the members bind
    settled: str = ""  # the entry settled last under the lease
    given: str = "0-0"  # the last entry that the group was given
    gone: int = 0  # pending ones that the log lost
    deliveries: Sequence[Delivery] = ()

    @property
    def is_read(self) -> bool:
        return self.word in ("again", "new")


class Members(NamedTuple):
    """Those that told of themselves lately, in the order in which they joined."""

    now_ms: int  # the server's time
    all: Sequence[Member]


class Leases:
    """Calls for one group and one member. They raise redis-py's errors, and may be made again after a lost answer."""

    def __init__(self, space: Scripted, group: str, member: str, *, term_ms: int) -> None:
        """term_ms: one visibility timeout."""
        self._space, self._group, self._member, self._term_ms = space, group, member, term_ms

    async def take(self, keys: PartitionKeys, nonce: str) -> Taken:
        word, *told = await self._call(keys, "take", nonce)
        if word == b"taken":
            token, how, *stopped = (one.decode() for one in told)
            return Taken("taken", token, how == "lost", stopped)
        if word == b"held":
            return Taken("held", owner=told[0].decode(), until_ms=int(told[1]))
        return Taken("quiet")

    async def give(self, keys: PartitionKeys, token: str) -> bool:
        """Whether it was still had."""
        reply: list[bytes] = await self._call(keys, "give", token)
        return reply[0] == b"given"

    async def note(self, keys: PartitionKeys, token: str, entry: str, tries: int) -> bool:
        """Keeps an entry's tries beyond this process. Whether the lease is still had."""
        reply: list[bytes] = await self._call(keys, "note", token, entry, tries)
        return reply[0] == b"noted"

    async def is_stopped(self, keys: PartitionKeys, run: str) -> bool:
        redis: Any = self._space.redis
        return bool(await uncancelled(redis.hexists(keys.lease(self._group), f"x:{run}")))

    async def stopped(self, keys: PartitionKeys) -> list[str]:
        """Runs of which nothing is handled."""
        redis: Any = self._space.redis
        fields: list[bytes] = await uncancelled(redis.hkeys(keys.lease(self._group)))
        return [field[2:].decode() for field in fields if field.startswith(b"x:")]

    async def _call(self, keys: PartitionKeys, verb: str, token: str, entry: str = "", tries: int = 0) -> Any:
        names = [keys.meta, keys.lease(self._group)]
        args: list[str | bytes | int] = [verb, self._member, token, self._term_ms, entry, tries]
        return await self._space.scripts.call("lease", names, args)

    async def tell(self, handles: Sequence[str]) -> Members:
        """That this member lives, and what it binds."""
        return await self._member_call("tell", handles)

    async def leave(self) -> Members:
        return await self._member_call("leave", ())

    async def _member_call(self, verb: str, handles: Sequence[str]) -> Members:
        args: list[str | bytes | int] = [verb, self._member, dumps(sorted(handles)), FORGET_MS]
        now, *told = await self._space.scripts.call("member", [self._space.keys.members(self._group)], args)
        rows = zip(told[::4], told[1::4], told[2::4], told[3::4], strict=True)
        found = [Member(name.decode(), int(since), int(seen), _texts(what)) for name, since, seen, what in rows]
        return Members(int(now), found)


def _texts(what: bytes) -> frozenset[str]:
    """Nothing for what no release wrote."""
    try:
        return frozenset(str(one) for one in loads(what))
    except (ValueError, TypeError):
        return frozenset()


async def owners(space: Scripted, group: str) -> list[tuple[str, int]]:
    """Of each partition: who has its lease ("": nobody) and until when (ms, the server's clock). Raises redis-py's errors."""
    redis: Any = space.redis
    async with redis.pipeline(transaction=False) as pipe:
        for keys in space.keys.partitions:
            pipe.hmget(keys.lease(group), "owner", "until")
        rows = await uncancelled(pipe.execute())
    return [(owner.decode() if owner else "", int(until or 0)) for owner, until in rows]


def renew_lease_command(
    script: Script, keys: PartitionKeys, group: str, member: str, token: str, *, term_ms: int
) -> Command:
    """lease.lua's call; answers `renewed` and the entry settled last, or `fenced`."""
    names = (keys.meta, keys.lease(group))
    return (b"EVALSHA", script.sha, len(names), *names, "renew", member, token, term_ms, "", 0)


def pull_command(
    script: Script, keys: PartitionKeys, group: str, member: str, token: str, after: str, limit: int
) -> Command:
    """after: the entry that was received last, "0-0" for none."""
    names = (keys.meta, keys.log, keys.lease(group))
    return (b"EVALSHA", script.sha, len(names), *names, group, member, token, after, limit)


def pulled(partition: int, reply: Sequence[Any]) -> Pulled:
    """pull.lua's answer."""
    word = reply[0].decode()
    if word not in ("again", "new"):
        return Pulled(word)
    _, version, settled, given, gone, *told = reply
    deliveries = [
        _delivery(partition, entry, fields, tries)
        for entry, fields, tries in zip(told[::3], told[1::3], told[2::3], strict=True)
    ]
    return Pulled(word, version.decode(), settled.decode(), given.decode(), gone, deliveries)


def _delivery(partition: int, entry: bytes, fields: Sequence[bytes], tries: int) -> Delivery:
    delivery = delivery_of(partition, entry, fields) or Delivery(partition, entry.decode(), "", "0-0", NOTHING)
    return delivery._replace(tries=max(tries, delivery.tries)) if tries else delivery
