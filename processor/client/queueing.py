"""Queueing a run for a worker: how one start differs from another, and its run.queued."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processor.client.effects import current
from processor.client.run import Run
from processor.core.errors import BadInput
from processor.core.events import Draft, draft
from processor.core.json import dumps, loads
from processor.core.names import check_name, check_run
from processor.core.references import Reference
from processor.core.start import start_hash
from processor.core.ulid import ulid

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Options", "input_hash", "put_queued", "start_queued"]


@dataclass(frozen=True, slots=True)
class Options:
    """How one start differs from another."""

    id: str | None = None
    thread: str | None = None
    labels: Mapping[str, str] | None = None
    delay_seconds: float = 0

    def run_id(self) -> str:
        """Raises BadName, BadInput."""
        if self.thread is None:
            return check_run(self.id) if self.id is not None else ulid()
        check_name(self.thread, "thread")
        return check_run(f"{self.thread}~{self.id if self.id is not None else ulid()}")

    @property
    def delay_ms(self) -> int:
        if not 0 <= self.delay_seconds <= 366 * 86_400:
            raise BadInput(
                f"delay_seconds is {self.delay_seconds!r}; give 0 or more, a year at most.",
                field="delay_seconds",
                value=str(self.delay_seconds),
            )
        return int(self.delay_seconds * 1000)


async def start_queued(tail: Tailrace, task: str, input: bytes, options: Options) -> Run[Any]:
    """A run for a worker; in a task it begins when that is over. input: JSON.

    Raises BadInput, BadName, RunExists, ThreadBusy, BacklogFull, ServerError; in a task BufferFull, BadEvent.
    """
    run: Run[Any] = Run(tail, options.run_id())
    effects = current(tail)
    if effects is None:
        await tail.session()
        await put_queued(run, task, input, options)
    else:
        effects.add(run.id, queued(task, input, options))
        run._not_started = True
    return run


async def put_queued(
    run: Run[Any], task: str, input: bytes, options: Options, references: Mapping[str, Reference] | None = None
) -> bool:
    """Appends run.queued from outside; False if the same start was there already. Raises as start_queued.

    references: parameters that are given a result of another run.
    """
    event = queued(task, input, options, references)
    sent = await run._writer_of(event).put_or_withdraw(event)
    assert sent.outcome is not None
    return sent.outcome.word == "appended"


def queued(task: str, input: bytes, options: Options, references: Mapping[str, Reference] | None = None) -> Draft:
    """Raises BadName, BadInput."""
    named = dumps(references) if references else b""
    return draft(
        "run.queued",
        b'{"task":%b,"input":%b%b}' % (dumps(task), input, b',"references":' + named if named else b""),
        task=check_name(task, "task"),
        start=input_hash(task, b"[%b,%b]" % (input, named) if named else input),
        thread=options.thread or "",
        labels=options.labels,
        delay_ms=options.delay_ms,
    )


def input_hash(task: str, input: bytes) -> str:
    """Of two equal starts it is equal. input: JSON."""
    return start_hash(task, json_as_python(input))


def json_as_python(data: bytes) -> object:
    """As `json` reads it, so that library and gateway hash alike."""
    try:
        return json.loads(data)
    except ValueError:
        return loads(data)
