"""A partition where reactions go on, on a server and in the model: every call is made to both and everything is compared."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from processor.core.cursor import FeedId
from processor.core.events import Draft
from processor.core.keys import Keyspace
from processor.core.partition import partition_of
from processor.store.emitting import Emitted, emit_command
from processor.store.executing import Output
from processor.store.reacting import Delivery, ReactUnit, react_command
from processor.store.scripts import partition_keys
from tests.processor.store.model_call import Applying
from tests.processor.store.model_execution import ExecutionModel, OutboxEntry, apply_settled, words
from tests.processor.store.stage_execution import ExecutionStage
from tests.processor.store.state import TERMINAL, Made, ModelRun
from tests.support.servers import TestServer

__all__ = ["ReactionModel", "ReactionStage"]

Units = Sequence[tuple[ReactUnit, Sequence[int]]]  # with the places of their entries in the log


@dataclass
class ReactionModel(ExecutionModel):
    """What react, emit and promote do to a group's entries. Written from DESIGN 3 and 4, not from the scripts."""

    retries: dict[str, tuple[int, Delivery, int]] = field(default_factory=dict)  # member → due, event, tries
    letters: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)  # group → run and event of its letters

    def react(self, group: str, units: Units, now: int) -> list[str]:
        self.published = []
        answers = [self._react(group, unit, places, now) for unit, places in units]
        self._merge()
        return answers

    def _react(self, group: str, unit: ReactUnit, places: Sequence[int], now: int) -> str:
        refusal = self._refused(unit.outputs, now) if unit.verb == "done" else None
        if refusal is not None:
            return f"refused {refusal}"
        pending = self.groups[group].pending
        held = [place for place in places if place in pending]
        if len(held) < len(places):
            return "stale" if held else "done"
        pending.difference_update(places)
        if unit.verb == "done":
            self._apply(unit.outputs, now)
        elif unit.verb == "retry":
            [delivery] = unit.deliveries
            member = f"{group}\n{delivery.entry}"
            self.delayed[member] = now + unit.delay_ms
            self.retries[member] = (now + unit.delay_ms, delivery, unit.tries)
        else:
            [delivery] = unit.deliveries
            self.letters.setdefault(group, []).append((delivery.run, delivery.payload))
        return "settled"

    def emit(self, group: str, made: Sequence[tuple[Emitted[object], int]], now: int) -> list[str]:
        """A word for each: those without output are not told apart."""
        self.published = []
        answers = []
        pending = self.groups[group].pending
        for one, place in made:
            run = self.runs.get(one.run)
            if not one.run:
                pending.discard(place)
                answers.append("settled")
            elif run is None or run.status in TERMINAL:
                answers.append("look")
            elif place not in pending:
                answers.append("done")
            elif run.broken:
                if place < self.log_first:  # what was cut from the log cannot be put back among the pending
                    pending.discard(place)
                answers.append("look")
            else:
                pending.discard(place)
                self._apply([Output(one.run, [("seen", one.payload, (), "")])], now)
                answers.append("settled")
        self._merge()
        return answers

    def promote_retries(self, members: Sequence[str], now: int) -> None:
        for member in members:
            due, delivery, _ = self.retries[member]
            if due <= now:
                del self.retries[member], self.delayed[member]
                self.log.append((delivery.run, FeedId.parse(delivery.id), delivery.payload))

    def _here(self, outputs: Sequence[Output]) -> list[Output]:  # type: ignore[override]  # of a reaction
        return [one for one in outputs if partition_of(one.run, self._partitions) == 0]

    def _refused(self, outputs: Sequence[Output], now: int) -> str | None:
        here = self._here(outputs)
        trial = copy.deepcopy(self) if here else self
        found = None
        for output in here:
            refusal = trial._try(output, now)
            if refusal is not None and found is None:
                found = f"{words(refusal)} of {output.run}"
        return found

    def _apply(self, outputs: Sequence[Output], now: int) -> None:
        here = self._here(outputs)
        for output in here:
            applying = Applying(self, output.run, self.runs.get(output.run) or ModelRun(), now)
            for event in output.events:
                assert apply_settled(applying, Draft(*event)) is None
            applying.tell()
        for output in outputs:
            if output not in here:
                target = partition_of(output.run, self._partitions)
                entry = OutboxEntry(target, output, self.last_out.get(target))
                self.outbox.append(entry)
                self.last_out[target] = entry

    def _merge(self) -> None:
        """All that one call adds to a run is one message."""
        merged: dict[str, tuple[str, FeedId | str, list[bytes | Made]]] = {}
        for name, first, payloads in self.published:
            known = merged.setdefault(name, (name, first, []))
            known[2].extend(payloads)
        self.published = list(merged.values())


class ReactionStage(ExecutionStage):
    model: ReactionModel

    def __init__(self, server: TestServer, namespace: str, partition: int, time: object) -> None:
        super().__init__(server, namespace, partition, time)  # type: ignore[arg-type]
        self.model = ReactionModel(self.model.layout, self.limits)
        self.keyspace = Keyspace(namespace, self.model.layout)

    def delivery(self, place: int) -> Delivery:
        """Of an entry that is, or was, in the log."""
        run, id, payload = self.model.log[place]
        assert isinstance(payload, bytes)
        return Delivery(self.partition, self._entries[place].decode(), run, str(id), payload)

    def places(self, group: str) -> list[int]:
        """Entries that a member holds."""
        return sorted(self.model.groups[group].pending)

    def react(self, group: str, units: Units) -> list[str]:
        script = self.scripts.named("react")
        command = react_command(script, self.limits, self.keyspace, self.partition, group, [unit for unit, _ in units])
        found = [answer.decode() for answer in self.run(self.scripts.send(script, command))]
        should = self.model.react(group, units, self.now)
        assert [_timeless(answer) for answer in found] == [_timeless(answer) for answer in should]
        self.compare()
        return found

    def emit(self, group: str, made: Sequence[tuple[Emitted[object], int]]) -> list[str]:
        script = self.scripts.named("emit")
        command, answered = emit_command(script, self.limits, self.keys, group, "c", [one for one, _ in made])
        reply = [word.decode() for word in self.run(self.scripts.send(script, command))]
        found = ["settled"] * len(made)
        if reply != ["settled"]:
            for place, word in zip(answered, reply, strict=True):
                found[place] = word
        # Those of one run go together: the model is asked in the order in which the script has them.
        should = ["settled"] * len(made)
        order = [n for n in range(len(made)) if not made[n][0].run] + list(answered)
        for place, word in zip(order, self.model.emit(group, [made[n] for n in order], self.now), strict=True):
            should[place] = word
        assert found == should
        self.compare()
        return found

    def promote_retries(self) -> None:
        members = sorted(self.model.retries, key=lambda member: (self.model.delayed[member], member))
        self.run(self.scripts.call("promote", partition_keys(self.keys), [0, *members]))
        self.model.published = []
        self.model.promote_retries(members, self.now)
        self.compare()

    def _compare_rest(self) -> None:
        keys, client, model = self.keys, self.client, self.model
        bodies = {member: client.hget(keys.delayed_body, member) for member in model.retries}
        for member, (_, one, tries) in model.retries.items():
            assert bodies[member] == f"{one.run}\n{one.id}\n{tries}\n".encode() + one.payload
        waiting = {k.decode(): int(v) for k, v in client.hgetall(keys.meta).items() if k.startswith(b"w:")}
        counts: dict[str, int] = {}
        for member in model.retries:
            group = member.partition("\n")[0]
            counts[group] = counts.get(group, 0) + 1
        assert waiting == {f"w:{group}": count for group, count in counts.items()}
        for group, letters in model.letters.items():
            found = [(f[b"r"].decode(), f[b"e"]) for _, f in client.xrange(keys.dead_group(group))]
            assert found == letters
        for group, state in model.groups.items():
            pending = client.xpending_range(keys.log, group, "-", "+", 10_000)
            assert {row["message_id"] for row in pending} == {self._entries[place] for place in state.pending}
        if bodies:  # what follows knows of runs alone
            client.hdel(keys.delayed_body, *bodies)
        super()._compare_rest()
        if bodies:
            client.hset(keys.delayed_body, mapping=bodies)


def _timeless(answer: str) -> str:
    """Without the feed ID of a closed run's tail, which the model need not know."""
    return " ".join(word for word in answer.split(" ") if not _is_id(word))


def _is_id(word: str) -> bool:
    head, _, tail = word.partition("-")
    return head.isdigit() and tail.isdigit()
