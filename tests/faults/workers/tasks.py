"""What the workers of these tests execute: each function journals its first line, writes live marks, settles one effect.

The namespace and the server come from TAILRACE_…; the journal lies in the folder that FAULTS_FOLDER names, the process
is called FAULTS_NAME.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import zlib
from pathlib import Path
from typing import Any, Final

from processor.errors import RunFailed
from tailrace import Retry, RetryLater, Run, Tailrace, chain, chord
from tests.faults.workers.oracle import EFFECT, MARK, Begun

__all__ = ["JOURNAL", "SINKS", "begun_in", "gate_of", "tail"]

JOURNAL: Final = "begun.journal"
SINKS: Final = tuple(f"sink-{n}" for n in range(4))  # runs of other roots, hence of other partitions
GATE_SECONDS: Final = 0.02  # between two looks
OFTEN = Retry(
    attempts=1000, base_seconds=0.02, cap_seconds=0.2
)  # lost executions count as tries: nothing may be given up

tail = Tailrace()


def _folder() -> Path:
    return Path(os.environ["FAULTS_FOLDER"])


def gate_of(folder: Path, name: str) -> Path:
    """The file whose presence lets functions of that gate end."""
    return folder / f"gate-{name}"


def begun_in(folder: Path) -> list[Begun]:
    path = folder / JOURNAL
    lines = path.read_text().splitlines() if path.exists() else []
    return [Begun(said["run"], said["attempt"], said["who"]) for said in map(json.loads, lines)]


def begin(run: Run) -> None:
    """One write of one line: it is there before anything else happens, whoever else writes, whenever the process dies."""
    line = json.dumps({"run": run.id, "attempt": run.attempt, "who": os.environ["FAULTS_NAME"]}) + "\n"
    journal = os.open(_folder() / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(journal, line.encode())
    os.close(journal)


def mark(run: Run, n: int) -> None:
    run.emit(MARK, {"n": n, "attempt": run.attempt})


def leave_effect(run: Run) -> None:
    sink = SINKS[zlib.crc32(run.id.encode()) % len(SINKS)]
    tail.run(sink).emit(EFFECT, {"run": run.id, "attempt": run.attempt})


@tail.task(retry=OFTEN)
async def work(run: Run, marks: int = 3, pause_ms: int = 5, gate: str = "", fails: int = 0) -> dict[str, Any]:
    """Marks with pauses between them, the last one behind its gate; so many first attempts fail in the end."""
    begin(run)
    for n in range(1, marks):
        mark(run, n)
        await asyncio.sleep(pause_ms / 1000)
    if gate:
        path = gate_of(_folder(), gate)
        while not path.exists():  # noqa: ASYNC110 - the test that opens it is another process
            await asyncio.sleep(GATE_SECONDS)
    if marks:
        mark(run, marks)
    leave_effect(run)
    if run.attempt <= fails:
        raise RuntimeError(f"attempt {run.attempt} fails, as it was told to")
    return {"marks": marks}


@tail.task(retry=OFTEN)
async def silent(run: Run, gate: str = "") -> dict[str, Any]:
    """As work, without any live event."""
    return await work(run, marks=0, gate=gate)


@tail.task(retry=OFTEN)
async def blocking(run: Run, seconds: float) -> dict[str, Any]:
    """Holds the event loop, as code that does not know of it does."""
    begin(run)
    mark(run, 1)
    await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251 - that is the fault
    mark(run, 2)
    leave_effect(run)
    return {"marks": 2}


@tail.task(retry=3)
async def poison(run: Run, pause_ms: int = 50) -> None:
    """Kills its process, whatever else runs there."""
    begin(run)
    await asyncio.sleep(pause_ms / 1000)
    os.kill(os.getpid(), signal.SIGKILL)


@tail.task(retry=2)
async def patient(run: Run, laters: int = 0, gate: str = "") -> dict[str, Any]:
    """May fail once; it comes back later as often as it is told to, which is no failure."""
    if run.attempt <= laters:
        begin(run)
        raise RetryLater(0.01)
    result: dict[str, Any] = await work(run, marks=2, gate=gate)
    return result


@tail.task(retry=OFTEN)
async def family(run: Run, children: int = 3, pause_ms: int = 20) -> dict[str, Any]:
    """Calls children one after the other, then as many at once, and leaves its effect."""
    begin(run)
    marks = [(await work.call(2, pause_ms))["marks"] for _ in range(children)]
    at_once = await asyncio.gather(*(work.call(1, pause_ms) for _ in range(children)))
    leave_effect(run)
    return {"marks": 0, "of_children": sum(marks) + sum(result["marks"] for result in at_once)}


@tail.task(retry=3)
async def guardian(run: Run) -> dict[str, Any]:
    """Calls a child that kills its process, which may be its own as well."""
    begin(run)
    try:
        await poison.call(pause_ms=300)
    except RunFailed as failed:
        return {"marks": 0, "reason": failed.reason}
    return {"marks": 0}


@tail.task(retry=OFTEN)
async def merge(run: Run, parts: list[Any]) -> dict[str, Any]:
    """The body of a flow: how many parts there are, those of groups within them included."""
    begin(run)
    leave_effect(run)
    return {"marks": 0, "parts": sum(part.get("parts", 1) for part in flat(parts))}


def flat(parts: list[Any]) -> list[dict[str, Any]]:
    return [one for part in parts for one in (flat(part) if isinstance(part, list) else [part])]


@tail.task(retry=OFTEN)
async def manager(run: Run, pause_ms: int = 20) -> dict[str, Any]:
    """Calls a flow, and leaves its effect."""
    begin(run)
    steps = [work.bind(2, pause_ms) for _ in range(3)]
    merged = await chain(work.bind(1, pause_ms), chord(steps, merge.bind())).call()
    leave_effect(run)
    return {"marks": 0, "parts": merged["parts"]}
