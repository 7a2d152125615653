"""What relay does: settled events of one partition enter another, in the order of its outbox, each once.

Written from DESIGN 3, 4 and tests/models/relay.py (rule `chain`), not from the script.
"""

from __future__ import annotations

from collections.abc import Sequence

from processor.core.events import Draft
from tests.processor.store.model_call import Applying
from tests.processor.store.model_execution import ExecutionModel, OutboxEntry, apply_settled, words
from tests.processor.store.state import ModelRun

__all__ = ["parts", "relay"]


def parts(id: str) -> tuple[int, int]:
    """Entry IDs are compared as two integers."""
    ms, _, n = id.partition("-")
    return int(ms), int(n)


def relay(target: ExecutionModel, source: int, entries: Sequence[OutboxEntry], now: int) -> list[str]:
    """entries: of the source's outbox for this target, in its order, from wherever the caller thinks fit."""
    target.published = []
    answers: list[str] = []
    for entry in entries:
        mark = target.marks.get(source, "0-0")
        if parts(entry.id) <= parts(mark):
            answers.append("duplicate")
        elif (entry.before.id if entry.before else "0-0") != mark:
            return [*answers, f"hole {mark}"]
        else:
            answers.append(_take(target, entry, now))
            target.marks[source] = entry.id
    return answers


def _take(target: ExecutionModel, entry: OutboxEntry, now: int) -> str:
    """Events that the run does not take any more are dropped from the first refused one on."""
    name = entry.output.run
    applying = Applying(target, name, target.runs.get(name) or ModelRun(), now)
    answer = "taken"
    for event in entry.output.events:
        refusal = apply_settled(applying, Draft(*event))
        if refusal is not None:
            answer = f"dropped {words(refusal)}"
            break
    applying.tell()
    return answer
