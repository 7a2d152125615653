"""Runs by the beginning or the end of their ID."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from processor.cli.exits import AmbiguousRun
from processor.core.errors import RunNotFound
from processor.core.names import check_run
from processor.store.connection import execute
from processor.store.runs import Space, read_states

__all__ = ["find_run", "find_runs"]

_SHOWN = 5  # of an ambiguous answer


async def find_run(space: Space, text: str) -> str:
    """The run whose ID is the text, else the only one that begins or ends with it. text: a console's link will do.

    Raises BadName, RunNotFound, AmbiguousRun.
    """
    text = _of_link(text)
    check_run(text)
    if (await read_states(space, [text]))[0] is not None:
        return text
    found = await _candidates(space, text)
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise AmbiguousRun(
            f"{len(found)} runs begin or end with {text!r}: {', '.join(found[:_SHOWN])}{more}.",
            remedy="Give more of the ID.",
            field="run",
            value=text,
        )
    raise RunNotFound(
        f"there is no run {text!r} in namespace {space.keys.namespace}.",
        remedy="`tailrace runs` lists them. A run goes 24 h after its end, unless TAILRACE_RETAIN_HOURS says otherwise.",
        run=text,
    )


async def find_runs(space: Space, texts: Sequence[str]) -> list[str]:
    return [await find_run(space, text) for text in texts]


def _of_link(text: str) -> str:
    """The ID in an address of the console, which is what people have in their clipboard."""
    if not text.startswith(("http://", "https://")):
        return text
    return parse_qs(urlsplit(text).fragment).get("run", [text])[0]


async def _candidates(space: Space, text: str) -> list[str]:
    """From the indexes of all partitions; of those, the runs that still exist. Names hold no glob characters."""
    found: set[str] = set()
    for partition in space.keys.partitions:
        for pattern in (f"{text}*", f"*{text}"):
            cursor: bytes | int = 0
            while True:
                cursor, pairs = await execute(
                    space.redis, "ZSCAN", partition.index, cursor, "MATCH", pattern, "COUNT", 1000
                )
                found.update(_names(pairs))
                if int(cursor) == 0:
                    break
    names = sorted(found)
    states = await read_states(space, names)
    return [name for name, state in zip(names, states, strict=True) if state is not None]


def _names(pairs: Sequence[object]) -> list[str]:
    """Members of a ZSCAN reply, which redis-py may have paired with their scores."""
    if pairs and isinstance(pairs[0], (tuple, list)):
        members: Sequence[object] = [pair[0] for pair in pairs if isinstance(pair, (tuple, list))]
    else:
        members = pairs[::2]
    return [member.decode() for member in members if isinstance(member, bytes)]
