"""A partition where executions go on, on a server and in the model: every call is made to both and everything is compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from processor.core.keys import Keyspace
from processor.core.partition import partition_of
from processor.store.executing import GROUP, Begun, Settled, Taken, Unit, settle_command, start_command
from processor.store.scripts import Held, Packing, partition_keys, renew_command
from tests.processor.store.model_execution import DeadLetter, ExecutionModel, OutboxEntry, Tasks
from tests.processor.store.model_relay import relay
from tests.processor.store.stage import LIMITS, Stage, Time, made
from tests.processor.store.state import ENDS, TERMINAL, Made
from tests.support.servers import TestServer

__all__ = ["RUNS", "TASKS", "TWO", "ExecutionStage"]

TWO = "2 abcdef"
TASKS = ("build", "check")
RUNS = {0: ("b", "d", "f"), 1: ("a", "c", "e", "T~1", "T~2", "T~3")}
assert all(partition_of(run, 2) == partition for partition, runs in RUNS.items() for run in runs)


class ExecutionStage(Stage):
    """One of two partitions. Close it."""

    model: ExecutionModel

    def __init__(self, server: TestServer, namespace: str, partition: int, time: Time) -> None:
        limits = replace(LIMITS, work=6, log=8)
        super().__init__(server, namespace, RUNS[partition], limits, layout=TWO, partition=partition, time=time)
        self.partition = partition
        self.keyspace = Keyspace(namespace, TWO)
        self.model = ExecutionModel(TWO, limits)
        for task in TASKS:
            self.client.xgroup_create(self.keys.work(task), GROUP, id="0", mkstream=True)

    # -- scripts

    def start(self, consumer: str, tasks: Tasks, held: int = 100) -> list[Begun]:
        script = self.scripts.named("start")
        command = start_command(script, self.limits, self.keys, consumer, held, tasks)
        found = [Begun.parse(answer) for answer in self.run(self.scripts.send(script, command))]
        assert found == self.model.start(consumer, tasks, self.now)
        self.compare()
        return found

    def settle(self, units: Sequence[Unit]) -> list[Settled]:
        script = self.scripts.named("settle")
        command = settle_command(script, self.limits, self.keyspace, self.partition, units)
        found = [Settled.parse(answer) for answer in self.run(self.scripts.send(script, command))]
        should = self.model.settle(units, self.now)
        assert [_untimed(answer) for answer in found] == [_untimed(answer) for answer in should]
        self.compare()
        return found

    def renew_held(
        self, consumer: str, held: Mapping[str, Sequence[Held]], owned: Sequence[tuple[str, str]] = ()
    ) -> list[str]:
        script = self.scripts.named("renew")
        command = renew_command(script, self.limits, self.keys, owned, consumer, held)
        found = [answer.decode() for answer in self.run(self.scripts.send(script, command))]
        assert found == self.model.renew(owned, self.now, consumer, held)
        self.compare()
        return found

    def promote(self, runs: Sequence[tuple[str, str]]) -> None:
        """Runs with their tasks, as the caller saw them."""
        names = partition_keys(self.keys)
        args: list[str | bytes | int] = [len(runs)]
        for run, task in runs:
            names += (self.keys.run(run), self.keys.work(task))
            args += (run, task)
        assert self.run(self.scripts.call("promote", names, args)) == self.model.promote(runs, self.now)
        self.compare()

    def take_from(self, source: int, entries: Sequence[OutboxEntry]) -> list[str]:
        """relay.lua's call for entries of another partition's outbox."""
        call = Packing.of(self.keys, self.keys.marks)
        call.args.append(source)
        for entry in entries:
            call.add_run(entry.output.run)
            call.args += (entry.before.id if entry.before else "0-0", entry.id, entry.output.run)
            call.add_events(entry.output.events)
        script = self.scripts.named("relay")
        reply = self.run(self.scripts.send(script, call.command(script, TWO, self.limits)))
        found = [answer.decode() for answer in reply]
        assert found == relay(self.model, source, entries, self.now)
        self.compare()
        return found

    # -- what workers do without a script

    def read(self, consumer: str, task: str, count: int) -> list[Taken]:
        """New entries."""
        self.client.execute_command(
            "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", self.keys.work(task), ">"
        )
        given = [entry for entry in self.model.work.get(task, ()) if not entry.consumer][:count]
        for entry in given:
            entry.consumer = consumer
        self._compare_pending()
        return [Taken(task, entry.id, entry.run, str(entry.queued), entry.payload) for entry in given]

    def claim(self, consumer: str, task: str, id: str) -> Taken | None:
        """A pending entry, from whoever has it, or one's own; what claim.lua tells of it."""
        entry = self.model.work_entry(task, id)
        if entry is None or not entry.consumer:
            return None
        self.client.xclaim(self.keys.work(task), GROUP, consumer, 0, [id], justid=True)
        entry.consumer = consumer
        self._compare_pending()
        run = self.model.runs.get(entry.run)
        seen, tries = (run.exec, run.tries) if run else ("", 0)
        return Taken(task, id, entry.run, str(entry.queued), entry.payload, seen, tries)

    def forget_relayed(self, mark: str) -> None:
        """What was taken may leave the outbox, as long as the mark covers it."""
        old = [entry for entry in self.model.outbox if entry.id == mark]
        if old:
            self.client.xdel(self.keys.outbox, *(entry.id for entry in old))
            self.model.outbox = [entry for entry in self.model.outbox if entry not in old]

    # -- resends

    def dumps(self) -> dict[bytes, bytes]:
        return {name: self.client.dump(name) for name in self.client.keys(self.keys.prefix + "*")}

    def unchanged(self, call: Callable[[], object]) -> None:
        """The call changes no byte in the partition."""
        before = self.dumps()
        call()
        assert self.dumps() == before

    # -- comparison

    def compare(self) -> None:
        super().compare()
        self._learn_ids()
        self._compare_pending()
        self._compare_dead()
        self._compare_outbox()
        self._check()

    def _learn_ids(self) -> None:
        for task in TASKS:
            ids = [id.decode() for id, _ in self.client.xrange(self.keys.work(task))]
            for id, entry in zip(ids, self.model.work.get(task, []), strict=True):
                entry.id = entry.id or id
                assert entry.id == id

    def _compare_pending(self) -> None:
        for task in TASKS:
            rows = self.client.xpending_range(self.keys.work(task), GROUP, "-", "+", 1000)
            found = {row["message_id"].decode(): row["consumer"].decode() for row in rows}
            entries = self.model.work.get(task, [])
            assert found == {entry.id: entry.consumer for entry in entries if entry.consumer}
            assert all(row["times_delivered"] == 1 for row in rows)  # only reads of new entries count

    def _compare_dead(self) -> None:
        for task in TASKS:
            letters = self.model.dead.get(task, [])
            found = self.client.xrange(self.keys.dead_task(task))
            assert (
                min(len(letters), self.limits.dead) <= len(found) <= self.limits.dead + 100
            )  # nodes are dropped whole
            for (_, fields), letter in zip(found, letters[len(letters) - len(found) :], strict=True):
                assert list(fields) == [b"r", b"i", b"e", b"f"]
                if isinstance(letter.failed, Made):
                    assert made(fields[b"f"]) == letter.failed
                    assert json.loads(b"{" + fields[b"f"])["data"]["error"]
                    letter.failed = fields[b"f"]
                is_ = DeadLetter(fields[b"r"].decode(), fields[b"i"].decode(), fields[b"e"], fields[b"f"])
                assert is_ == letter

    def _compare_outbox(self) -> None:
        model, client = self.model, self.client
        found = client.xrange(self.keys.outbox)
        for (id, fields), entry in zip(found, model.outbox, strict=True):
            entry.id = entry.id or id.decode()
            before = entry.before.id if entry.before else "0-0"
            assert (id.decode(), int(fields[b"t"]), fields[b"p"].decode()) == (entry.id, entry.target, before)
        meta: dict[bytes, bytes] = client.hgetall(self.keys.meta)
        outs = {int(name[4:]): value.decode() for name, value in meta.items() if name.startswith(b"out:")}
        assert outs == {target: entry.id for target, entry in model.last_out.items()}
        marks = {int(source): mark.decode() for source, mark in client.hgetall(self.keys.marks).items()}
        assert marks == model.marks

    # -- what holds whatever happened, and the model could break as well

    def _check(self) -> None:
        for name in {name for name, _, _ in self.model.published if name in self.model.runs}:
            self._check_events(name)
        for name, run in self.model.runs.items():
            if run.status in TERMINAL or run.broken:
                continue
            self._check_places(name)
            if "owner" not in run.fields:
                assert run.tries == run.honest + (run.exec != ""), name

    def _check_events(self, name: str) -> None:
        """The end is the last event and the only one; once an attempt has begun, nothing comes from an older one."""
        newest = 0
        events = [json.loads(b"{" + payload) for _, payload in self.model.runs[name].events if type(payload) is bytes]
        for at, event in enumerate(events, 1):
            assert at == len(events) or event["type"] not in ENDS, f"{name}: an event after {event}"
            attempt = event.get("attempt", newest)
            assert attempt >= newest, f"{name}: {event} after attempt {newest} began"
            if event["type"] == "run.started":
                newest = attempt

    def _check_places(self, name: str) -> None:
        """A run that was queued, until it ends, stands in one place; others in none."""
        model = self.model
        entries = [entry for entries in model.work.values() for entry in entries if entry.run == name]
        places = len(entries) + (name in model.bodies)
        first = model.runs[name].events[0][1]
        assert isinstance(first, bytes)
        assert places == first.startswith(b'"type":"run.queued"'), name


def _untimed(answer: Settled) -> Settled:
    """`closed` tells the last event's ID, which no judge knows before the events in front of it are applied."""
    if answer.word != "refused" or not answer.detail.startswith("closed "):
        return answer
    word, one, status, _, *of = answer.detail.split(" ")
    return Settled(answer.word, " ".join([word, one, status, *of]))
