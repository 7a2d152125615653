"""Results by reference: read where they are, by whoever needs them, when they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from processor.core.cursor import FeedId
from processor.core.errors import BadInput
from processor.core.events import Event
from processor.core.json import dumps
from processor.core.lifecycle import TERMINAL
from processor.core.references import ChildFailed, Reference, full_name, is_reference, names_in
from processor.store.connection import speaking_of, uncancelled
from processor.store.space import Space

if TYPE_CHECKING:
    from processor.client.session import Session

__all__ = ["ByReference", "TooLarge", "failure_in", "finished_data", "input_of", "resolve", "result_of"]

AT_ONCE: Final = 100  # runs whose ends are read in one round trip
DEPTH: Final = 20  # of results that are references themselves


class TooLarge(Exception):
    """What was referred to is larger than it may be."""


class ByReference:
    """What a function returns whose result stays where it is."""

    __slots__ = ("reference",)

    def __init__(self, reference: Reference) -> None:
        self.reference = reference


class _End(NamedTuple):
    """Of a run: its status ("" if it is unknown) and its last event, None if that has expired."""

    status: str
    last: Event[Any] | None


def finished_data(result: object) -> bytes:
    """Data of run.finished, for what a function returned. Raises BadEvent."""
    if isinstance(result, ByReference):
        return b'{"result":null,"reference":%b}' % dumps(result.reference)
    return b'{"result":%b}' % dumps(result)


async def input_of(session: Session, run: str, data: object) -> object:
    """The input of a run.queued as JSON has it, with the results that it refers to. data: the event's.

    Raises BadInput for a result that is not there (its field is the parameter's), ServerError.
    """
    if not isinstance(data, dict):
        return {}
    input, references = data.get("input", {}), data.get("references")
    if not isinstance(references, dict) or not isinstance(input, dict):
        return input
    with speaking_of(session.server.address.url):
        given = {
            name: await resolve(session, run, reference, what=name, field=f"input.{name}")
            for name, reference in references.items()
            if is_reference(reference)
        }
    return {**input, **given}


async def result_of(session: Session, run: str, data: Mapping[str, Any]) -> Any:
    """The result of a run that finished. data: of its run.finished. Raises BadInput, ServerError."""
    if data.get("result") is not None or not is_reference(data.get("reference")):
        return data.get("result")
    with speaking_of(session.server.address.url):
        return await resolve(session, run, data["reference"])


async def resolve(
    space: Space,
    run: str,
    reference: Reference,
    *,
    what: str = "the result",
    field: str = "result",
    at_most: float = float("inf"),
    depth: int = 0,
) -> Any:
    """What a reference means, as JSON has it: a child that failed is an object like ChildFailed.

    run: who holds it. what, field: of the message. at_most: bytes of all that is read, else TooLarge. Raises BadInput for a
    result that has expired or was never there, RedisError, ServerError.
    """
    names = list(dict.fromkeys(names_in(reference)))
    values: dict[str, Any] = {}
    read = 0
    for at in range(0, len(names), AT_ONCE):
        runs = {name: full_name(run, name) for name in names[at : at + AT_ONCE]}
        for name, end in zip(runs, await _read_ends(space, list(runs.values())), strict=True):
            last = _last_of(end, what, field, runs[name])
            read += len(last.payload)
            if read > at_most:
                raise TooLarge
            values[name] = await _value_of(space, last, what, field, at_most, depth)
    return _built(run, reference, values)


async def _read_ends(space: Space, runs: Sequence[str]) -> list[_End]:
    async with space.redis.pipeline(transaction=False) as pipe:
        for run in runs:
            keys = space.keys.of(run)
            pipe.execute_command("HGET", keys.run(run), "status")
            pipe.execute_command("XREVRANGE", keys.feed(run), "+", "-", "COUNT", 1)
        replies = await uncancelled(pipe.execute())
    return [
        _End(status.decode() if status else "", _event(run, entries))
        for run, status, entries in zip(runs, replies[::2], replies[1::2], strict=True)
    ]


def _event(run: str, entries: Sequence[Any]) -> Event[Any] | None:
    if not entries:
        return None
    id, fields = entries[0]
    return Event(run, FeedId.parse(id), fields[b"e"] if isinstance(fields, dict) else fields[1])


def _last_of(end: _End, what: str, field: str, run: str) -> Event[Any]:
    """Raises BadInput."""
    if end.status and end.status not in TERMINAL:
        raise BadInput(f"{what} is the result of run {run}, which is still {end.status}.", field=field, value=run)
    if end.last is None or end.last.ends is None:
        raise BadInput(
            f"{what} is the result of run {run}, which has expired.",
            remedy="Results are kept for TAILRACE_RETAIN_HOURS after a run's end: raise it above what a flow takes.",
            field=field,
            value=run,
        )
    return end.last


async def _value_of(space: Space, last: Event[Any], what: str, field: str, at_most: float, depth: int) -> Any:
    data = last.data if isinstance(last.data, dict) else {}
    if last.type != "run.finished":
        return asdict(failure_in(last))
    if data.get("result") is None and is_reference(data.get("reference")):
        if depth >= DEPTH:
            raise BadInput(f"{what} is a reference to a reference, {DEPTH} times over.", field=field, value=last.run)
        return await resolve(
            space, last.run, data["reference"], what=what, field=field, at_most=at_most, depth=depth + 1
        )
    return data.get("result")


def failure_in(last: Event[Any]) -> ChildFailed:
    """What an end without a result says."""
    data = last.data if isinstance(last.data, dict) else {}
    if last.type == "run.cancelled":
        return ChildFailed(last.run, "cancelled", str(data.get("reason") or ""))
    return ChildFailed(last.run, str(data.get("reason") or "error"), str(data.get("error") or ""))


def _built(run: str, reference: Reference, values: Mapping[str, Any]) -> Any:
    if isinstance(reference, str):
        return values[reference]
    if isinstance(reference, list):
        return [_built(run, one, values) for one in reference]
    child = full_name(run, reference["run"]) if "run" in reference else ""
    return asdict(ChildFailed(child, reference["failed"], reference.get("error", "")))
