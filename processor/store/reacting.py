"""Reactions of a group: the log entries in a worker's hands, and how they are settled (react.lua)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from processor.core.keys import Keyspace, PartitionKeys
from processor.store.executing import Output, parcel
from processor.store.scripts import Limits, Packing, Script
from processor.store.space import Scripted

__all__ = [
    "Claimed",
    "Delivery",
    "Lease",
    "ReactUnit",
    "claim",
    "delivery_of",
    "hold_command",
    "react_command",
    "skip_command",
]

Verb = Literal["done", "retry", "dead"]
Command = tuple[bytes | str | int, ...]
_is_feed_id: Final = re.compile(rb"[0-9]+-[0-9]+").fullmatch


class Delivery(NamedTuple):
    """A log entry in a worker's hands."""

    partition: int
    entry: str  # "<ms>-<number>"
    run: str
    id: str  # feed ID of the event
    payload: bytes
    group: str = ""  # of a retry: whom it is for; "" for all
    tries: int = 0  # how often it was tried, and failed or was lost
    lost: int = 0  # how often with the process that had it


def delivery_of(partition: int, entry: bytes, fields: Sequence[bytes]) -> Delivery | None:
    """fields: names and values in turn, as the log has them. None for what somebody added by hand."""
    group, tries = b"", b"0"
    try:
        if len(fields) == 6:
            _, run, _, id, _, payload = fields
        else:
            _, run, _, id, _, payload, _, group, _, tries = fields
        if not _is_feed_id(id) or not payload.startswith(b'"type":"'):
            return None
        return Delivery(partition, entry.decode(), run.decode(), id.decode(), payload, group.decode(), int(tries))
    except ValueError:
        return None


class ReactUnit(NamedTuple):
    """What became of one entry, or of the entries of one batch; all of one partition."""

    deliveries: Sequence[Delivery]
    verb: Verb
    outputs: Sequence[Output] = ()  # of done alone
    delay_ms: int = 0  # of retry
    tries: int = 0  # of retry: with the one that failed now
    failure: bytes = b""  # of dead: JSON
    stop: bool = False  # of dead: the ordered group takes no more of its run
    live: int = 0  # a reaction writes nothing live

    @property
    def run(self) -> str:
        """For the log: of its first event."""
        return self.deliveries[0].run

    @property
    def size(self) -> int:
        """Bytes of what its call carries, about."""
        if self.verb == "done":
            return sum(len(event[1]) for output in self.outputs for event in output.events)
        return len(self.deliveries[0].payload) + len(self.failure)


class Lease(NamedTuple):
    """What a settlement under a lease names."""

    token: str
    last: str  # the entry settled before the first of the call; "" for none


class Claimed(NamedTuple):
    """What claim_log answered. word: taken quiet nogroup."""

    word: str
    deliveries: Sequence[Delivery] = ()  # their tries include those that were lost
    lost: int = 0  # entries that the log does not have any more
    after: str = ""  # where to go on; "" at the end


async def claim(
    space: Scripted,
    partition: int,
    group: str,
    consumer: str,
    *,
    idle_ms: int,
    limit: int,
    own: bool = False,
    after: str = "-",
) -> Claimed:
    """Takes over what others hold and do not renew. own: looks at what is pending for this very consumer instead.

    Raises redis-py's errors.
    """
    keys = space.keys.partitions[partition]
    args = [group, consumer, "own" if own else "others", idle_ms, limit, after]
    word, *rest = await space.scripts.call("claim_log", [keys.meta, keys.log], args)
    if not rest:
        return Claimed(word.decode())
    taken, gone, last = rest
    found = []
    for entry, deliveries, fields in zip(taken[::3], taken[1::3], taken[2::3], strict=True):
        delivery = delivery_of(partition, entry, fields)
        if delivery is not None:
            lost = deliveries - 1 if own else deliveries  # what this process was given and never got has not begun
            found.append(delivery._replace(tries=delivery.tries + lost, lost=lost))
    return Claimed(word.decode(), found, len(gone), last.decode())


def hold_command(
    script: Script, log: str, group: str, consumer: str, entries: Sequence[str], begun: int = 0
) -> Command:
    """hold.lua's call. log: the key. begun: how often they were, with the time that begins now; 0: nothing begins."""
    return (b"EVALSHA", script.sha, 1, log, group, consumer, begun, *entries)


def skip_command(
    script: Script, keys: PartitionKeys, group: str, version: str, entries: Sequence[bytes | str]
) -> Command:
    """skip.lua's call."""
    return (b"EVALSHA", script.sha, 2, keys.meta, keys.log, group, version, *entries)


_SHARED: Final = Lease("", "")


def react_command(
    script: Script,
    limits: Limits,
    keyspace: Keyspace,
    partition: int,
    group: str,
    units: Sequence[ReactUnit],
    lease: Lease = _SHARED,
) -> Command:
    """react.lua's call for units of one group and partition; answers come in the same order, each a `Settled` with the word
    settled done stale refused, under a lease also fenced hole."""
    keys = keyspace.partitions[partition]
    call = Packing.of(keys, keys.outbox, keys.dead_group(group), keys.lease(group))
    here: dict[str, int] = {}
    for unit in units:
        for output in unit.outputs:
            if output.run not in here and keyspace.number(output.run) == partition:
                here[output.run] = len(here) + 1
                call.add_run(output.run)
    call.args += (group, limits.dead, lease.token, lease.last, units[-1].deliveries[-1].entry, len(here), *here)
    for unit in units:
        _add_unit(call, keyspace, unit, here)
    return call.command(script, keyspace.layout, limits)


def _add_unit(call: Packing, keyspace: Keyspace, unit: ReactUnit, here: dict[str, int]) -> None:
    args = call.args
    args += (unit.verb, len(unit.deliveries))
    args += [delivery.entry for delivery in unit.deliveries]
    if unit.verb == "done":
        _add_outputs(call, keyspace, unit.outputs, here)
        return
    [one] = unit.deliveries
    if unit.verb == "retry":
        args += (unit.delay_ms, unit.tries, one.run, one.id, one.payload)
    else:
        args += (unit.failure, one.run, one.id, one.payload, "stop" if unit.stop else "")


def _add_outputs(call: Packing, keyspace: Keyspace, outputs: Sequence[Output], here: dict[str, int]) -> None:
    args: list[Any] = call.args
    if not outputs:
        args += (0, 0)
        return
    inside = [output for output in outputs if output.run in here]
    args.append(len(inside))
    for output in inside:
        args.append(here[output.run])
        call.add_events(output.events)
    args.append(len(outputs) - len(inside))
    for output in outputs:
        if output.run not in here:
            args += (keyspace.number(output.run), parcel(output))
