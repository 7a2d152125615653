"""Schedulers as real processes: killed, frozen and woken."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from processor import Tailrace
from processor.core.schedule import due_name
from processor.store.schedules import read_schedule
from tests.processor.worker.standing import SCHEDULE, TASK
from tests.support.program import Program
from tests.support.servers import TestServer
from tests.support.until import until


def holder(programs: list[Program]) -> Program | None:
    """Who began the duty last and has not said that it ended."""
    holding = [one for one in programs if one.out.count("begins") > one.out.count("ends")]
    return holding[0] if len(holding) == 1 else None


async def test_each_second_once(server: TestServer, namespace: str, program: Callable[..., Program]) -> None:
    """Three processes; the holder is killed, the next one frozen for longer than its lock and woken: each due time has one
    run, and none is left out."""
    programs = [program("python", "-m", "tests.processor.worker.standing", server.url, namespace) for _ in range(3)]
    async with Tailrace(server.url, namespace=namespace) as tail:
        session = await tail.session()
        with server.client() as client:

            def queued() -> list[str]:
                entries: Any = client.xrange(session.keys.of(TASK).work(TASK))
                return [fields[b"r"].decode() for _, fields in entries]

            async def goes_on() -> None:
                before = len(queued())
                await until(lambda: len(queued()) >= before + 2, "two more seconds have their runs", 15)

            await goes_on()
            killed = holder(programs)
            assert killed is not None
            killed.kill()
            living = [one for one in programs if one is not killed]
            await until(lambda: holder(living) is not None, "another has the duty", 10)
            frozen = holder(living)
            assert frozen is not None
            frozen.send(signal.SIGSTOP)
            (other,) = [one for one in living if one is not frozen]
            await other.says("begins", 10)
            await goes_on()
            ended = frozen.out.count("ends")
            frozen.send(signal.SIGCONT)
            await until(lambda: frozen.out.count("ends") > ended, "the frozen one noticed that it lost the duty")
            await goes_on()
            for one in living:
                one.kill()
            record = await read_schedule(session, TASK)
            assert record is not None
            assert record.next is not None
            found = Counter(queued())
            assert set(found.values()) == {1}
            first = record.next - len(found) * 1000
            due = [f"{TASK}~{due_name(at)}" for at in SCHEDULE.due_times(first - 1, record.next)]
            # Killed between start and advance: the last one may be started and not noted.
            assert list(found) in (due[: len(found)], due[1 : len(found) + 1])
