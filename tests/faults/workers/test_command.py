"""`tailrace worker` itself, whose processes are killed under it."""

from __future__ import annotations

import signal

import psutil

from tests.faults.workers.oracle import lost_executions
from tests.faults.workers.world import the_world
from tests.support.program import Program
from tests.support.until import until

PROCESSES = 2


async def test_processes_of_the_command_are_killed() -> None:
    """kill -9 of a process that the command keeps: another takes its place, all is done once; SIGTERM ends it in order."""
    async with the_world(visibility_seconds=1.0) as world:
        words = ("worker", "tests.faults.workers.tasks:tail", "--processes", str(PROCESSES), "--concurrency", "20")
        command = Program("python", "-m", "processor.cli.main", *words, env={**world.env, "FAULTS_NAME": "command"})
        try:
            await world.begin_producer(pause=0.02)
            for _ in range(3):
                await until(lambda: len(processes_of(command)) == PROCESSES, "the command has its processes", 20)
                await world.goes_on(world.rng.randint(1, 100))
                world.rng.choice(processes_of(command)).kill()
            await world.goes_on(50)
            history = await world.verdict()
            print(f"  {lost_executions(history)} executions lost")
            command.send(signal.SIGTERM)
            assert await command.ended(20) == 0, command.err[-3000:]
        finally:
            command.kill()
        assert "Traceback" not in command.err


def processes_of(command: Program) -> list[psutil.Process]:
    """Those that have begun to work: they import what they execute."""
    return [child for child in psutil.Process(command.pid).children() if child.status() != psutil.STATUS_ZOMBIE]
