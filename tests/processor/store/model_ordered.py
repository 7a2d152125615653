"""What an ordered group's lease, pull and settlement answer, as a small model of one partition: the reference for lease.lua, pull.lua
and the part of react.lua that stands under a lease. Entries are told by their numbers, from 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Answer", "OrderedModel"]

Answer = tuple[object, ...]


@dataclass
class OrderedModel:
    term_ms: int
    events: list[tuple[str, int]] = field(default_factory=list)  # run, number in it
    given: int = 0
    pending: set[int] = field(default_factory=set)
    owner: str = ""
    ends: int = 0
    number: int = 0  # of the token
    nonce: str = ""
    last: int = 0
    is_lost: bool = False
    tries: dict[int, int] = field(default_factory=dict)
    applied: list[tuple[str, int]] = field(default_factory=list)
    dead: list[tuple[str, int]] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)
    claimed: int = 0
    quiet: int | None = None

    @property
    def token(self) -> str:
        return f"{self.number}-{self.nonce}"

    def take(self, member: str, nonce: str, now: int) -> Answer:
        if self.owner and self.nonce == nonce:
            self.ends = now + self.term_ms
            return self._taken(is_lost=self.is_lost)
        if self.owner and self.ends > now:
            self.ends = min(self.ends, now + self.term_ms)
            return ("held", self.owner, self.ends)
        if self.owner and self._note_claim(now):
            return ("quiet",)
        self.is_lost = bool(self.owner)
        self.owner, self.ends, self.number, self.nonce, self.last = (
            member,
            now + self.term_ms,
            self.number + 1,
            nonce,
            0,
        )
        return self._taken(is_lost=self.is_lost)

    def _taken(self, *, is_lost: bool) -> Answer:
        return ("taken", self.token, is_lost, frozenset(self.stopped))

    def _note_claim(self, now: int) -> bool:
        quiet = now if self.quiet is None else self.quiet
        if self.claimed > now or now - self.claimed > self.term_ms / 2:
            quiet = now
        self.claimed, self.quiet = now, quiet
        return now - quiet < self.term_ms

    def give(self, token: str) -> bool:
        if token != self.token:
            return False
        self.owner, self.ends, self.is_lost, self.nonce, self.last = "", 0, False, "", 0
        return True

    def note(self, token: str, entry: int, tries: int) -> bool:
        if token == self.token:
            self.tries[entry] = tries
        return token == self.token

    def pull(self, token: str, after: int, limit: int) -> Answer:
        """Of an answer that was read: word, settled last, given last, entries with their tries."""
        if token != self.token:
            return ("fenced",)
        if after > self.given:
            return ("hole",)
        held = sorted(entry for entry in self.pending if entry > after)[:limit]
        if held:
            return ("again", self.last, self.given, [(entry, self.tries.get(entry, 0)) for entry in held])
        new = list(range(self.given + 1, min(len(self.events), self.given + limit) + 1))
        self.given += len(new)
        self.pending |= set(new)
        return ("new", self.last, self.given, [(entry, 0) for entry in new])

    def settle(self, token: str, before: int, units: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
        """units: verb (done, skip, dead, stop), entries."""
        fence = "" if token == self.token else "fenced"
        answers: list[str] = []
        if not fence and self.last != before and self.last == units[-1][1][-1]:
            return ["done"] * len(units)  # all of it was executed, and the answer was lost
        for verb, entries in units:
            if not fence and self.last != before:
                if self.last == entries[-1]:
                    before = entries[-1]
                    answers.append("done")
                    continue
                fence = "hole"
            if not fence and not set(entries) <= self.pending:
                fence = "hole"
            if fence:
                answers.append(fence)
                continue
            self._apply(verb, entries)
            self.last = before = entries[-1]
            answers.append("settled")
        return answers

    def _apply(self, verb: str, entries: Sequence[int]) -> None:
        self.pending -= set(entries)
        for entry in entries:
            self.tries.pop(entry, None)
        told = [self.events[entry - 1] for entry in entries]
        if verb == "done":
            self.applied += told
        elif verb in ("dead", "stop"):
            self.dead += told
            if verb == "stop":
                self.stopped.add(told[0][0])
