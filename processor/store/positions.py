"""What the server has of the producers of a run whose numbers are offsets."""

from __future__ import annotations

from typing import NamedTuple

from processor.store.connection import execute
from processor.store.offsets import CHECKPOINT
from processor.store.runs import read_feed
from processor.store.space import Space

__all__ = ["Position", "last_payload", "read_positions"]


class Position(NamedTuple):
    """name: of the producer. stored: its last number. seq: of that event in the feed. at_ms: when it was appended."""

    name: str
    stored: int
    seq: int
    at_ms: int


async def read_positions(space: Space, run: str, prefix: str) -> list[Position]:
    """Of all producers whose names begin so; prefix has no character that a pattern would not take as it is."""
    key = space.keys.of(run).run(run)
    found: dict[bytes, bytes] = {}
    cursor: bytes | int = 0
    while True:
        cursor, fields = await execute(
            space.redis, "HSCAN", key, cursor, "MATCH", f"{CHECKPOINT}{prefix}*", "COUNT", 1000
        )
        flat = [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields
        found.update(zip(flat[::2], flat[1::2], strict=True))
        if not int(cursor):
            break
    return [_position(name.decode(), value.decode()) for name, value in found.items()]


def _position(name: str, value: str) -> Position:
    stored, first_number, first_seq, at_ms = (int(part) for part in value.split(" "))
    return Position(name.removeprefix(CHECKPOINT), stored, first_seq + stored - first_number, at_ms)


async def last_payload(space: Space, run: str, position: Position) -> bytes | None:
    """The producer's last event; None once it was trimmed."""
    entries = await read_feed(space, run, position.seq, last=position.seq, count=1)
    return entries[0][1] if entries else None
