"""Whether reactions were settled as promised: facts as the feeds have them, against the effects that each group left of them.

No I/O and no library code: it must not share a mistake with what it judges.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, NamedTuple

__all__ = ["FACT", "Effect", "Fact", "Group", "History", "Journaled", "facts_of", "judge", "judge_alone", "judge_once"]

FACT: Final = "shop.fact"  # {"n": its number in its run, from 1, …}
SHOWN: Final = 5


class Fact(NamedTuple):
    run: str
    n: int


Effect = Fact  # of it, in the order of the run that has it


class Journaled(NamedTuple):
    """A line of a handler's journal."""

    group: str
    run: str
    n: int
    what: str  # begins ends fails
    who: str

    @property
    def fact(self) -> Fact:
        return Fact(self.run, self.n)


@dataclass(frozen=True, slots=True)
class Group:
    """What one group left."""

    near: Mapping[str, Sequence[Effect]]  # run that has them, of the facts' partition -> one of each fact
    far: Mapping[str, Sequence[Effect]]  # run elsewhere -> one of each fact with an even number
    dead: Sequence[Fact] = ()  # dead letters
    is_ordered: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """All that is known when everything has come to rest."""

    accepted: Collection[Fact]  # of which producers were told
    feeds: Mapping[str, Sequence[int]]  # run -> numbers of its facts, in order
    groups: Mapping[str, Group]
    journal: Sequence[Journaled] = ()
    left: Mapping[str, int] = field(default_factory=dict)  # what must be empty -> how much is in it
    broken: Sequence[str] = ()  # feeds whose numbers have holes or whose times go back
    dead: Mapping[str, Collection[Fact]] = field(default_factory=dict)  # group -> facts that it had to give up
    unhandled: Mapping[str, Collection[Fact]] = field(default_factory=dict)  # group -> facts that it need not have got


def facts_of(entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]], prefix: str) -> list[Mapping[str, Any]]:
    """Data of the events in a feed whose type begins so."""
    events = [json.loads(b"{" + fields[b"e"]) for _, fields in entries]
    return [event["data"] for event in events if event["type"].startswith(prefix)]


def judge(history: History) -> list[str]:
    """What is wrong; nothing if each group did once what it had to, and nothing is left."""
    there = [Fact(run, n) for run, numbers in history.feeds.items() for n in numbers]
    complaints = [f"feed of {run} is not numbered without holes, or its times go back" for run in history.broken]
    complaints += _list("lost: accepted, and not in its feed:", set(history.accepted) - set(there))
    complaints += _list("doubled in their feeds:", _doubled(there))
    for run, numbers in history.feeds.items():
        if list(numbers) != sorted(numbers):
            complaints.append(f"run {run}: its facts stand in another order than they were told: {list(numbers)[:50]}")
    for name, group in history.groups.items():
        complaints += [
            f"group {name}: {complaint}" for complaint in _judge_group(history, name, group, frozenset(there))
        ]
    complaints += [f"{what} has {count} left in it" for what, count in sorted(history.left.items()) if count]
    return complaints


def judge_once(history: History, group: str, facts: Collection[Fact]) -> list[str]:
    """The group's handler was called once for each of these."""
    began = Counter(line.fact for line in history.journal if line.group == group and line.what == "begins")
    return [f"group {group}: handler of {fact} was called {began[fact]} times" for fact in facts if began[fact] != 1]


def judge_alone(history: History, group: str) -> list[str]:
    """The group's handlers of one run never ran at the same time. For stories in which none died or was frozen."""
    running: dict[str, int] = {}
    complaints = []
    for line in history.journal:
        if line.group != group:
            continue
        if line.what != "begins":
            running.pop(line.run, None)
        elif line.run in running:
            complaints.append(f"group {group}: {line.fact} began while {running[line.run]} of the same run was handled")
        else:
            running[line.run] = line.n
    return complaints


def _judge_group(history: History, name: str, group: Group, there: frozenset[Fact]) -> list[str]:
    given_up, spared = set(history.dead.get(name, ())), set(history.unhandled.get(name, ()))
    must = there - given_up - spared
    complaints = _list("dead letters that should not be:", set(group.dead) - given_up)
    complaints += _list("given up without a dead letter:", given_up & there - set(group.dead))
    complaints += _list("more than one dead letter of", _doubled(group.dead))
    for what, runs, wanted in (
        ("near", group.near, must),
        ("far", group.far, {fact for fact in must if fact.n % 2 == 0}),
    ):
        effects = [effect for run in runs.values() for effect in run]
        complaints += _list(f"lost: no {what} effect of", wanted - set(effects))
        complaints += _list(f"doubled: {what} effects of", _doubled(effects))
        complaints += _list(f"{what} effects of what was given up:", given_up & set(effects))
        complaints += _list(f"{what} effects of what is in no feed:", set(effects) - there)
        if group.is_ordered:
            complaints += [word for run, found in runs.items() for word in _judge_order(run, found)]
    near = {effect for run in group.near.values() for effect in run if effect.n % 2 == 0}
    far = {effect for run in group.far.values() for effect in run}
    complaints += _list("one effect without the other, of", near ^ far)
    return complaints


def _judge_order(where: str, effects: Sequence[Effect]) -> list[str]:
    """Effects of one run stand in the order of its facts."""
    numbers: dict[str, list[int]] = {}
    for effect in effects:
        numbers.setdefault(effect.run, []).append(effect.n)
    return [
        f"out of order in {where}: {before} of run {run} stands before {after}"
        for run, found in numbers.items()
        for before, after in pairwise(found)
        if before > after
    ]


def _doubled(facts: Collection[Fact]) -> list[Fact]:
    return [fact for fact, count in Counter(facts).items() if count > 1]


def _list(what: str, facts: Collection[Fact]) -> list[str]:
    some = [f"{fact.run}/{fact.n}" for fact in sorted(facts)]
    return [f"{what} {len(some)} facts: {', '.join(some[:SHOWN])}{' …' * (len(some) > SHOWN)}"] if some else []
