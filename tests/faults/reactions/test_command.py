"""`tailrace worker` itself with reactions, whose processes are killed under it."""

from __future__ import annotations

import signal

from tests.faults.reactions.world import the_world
from tests.faults.workers.test_command import processes_of
from tests.support.program import Program
from tests.support.until import until

PROCESSES = 2


async def test_processes_of_the_command_are_killed() -> None:
    """kill -9 of a process that the command keeps: another takes its place, each event counts once; SIGTERM ends it in order."""
    async with the_world(visibility_seconds=1.0) as world:
        words = ("worker", "tests.faults.reactions.app:tail", "--processes", str(PROCESSES))
        command = Program("python", "-m", "processor.cli.main", *words, env={**world.env, "FAULTS_NAME": "command"})
        try:
            await until(lambda: len(processes_of(command)) == PROCESSES, "the command has its processes", 20)
            await until(world.is_bound, "its groups are bound", 20)
            await world.begin_producer(pause=0.1)
            for _ in range(3):
                await world.goes_on(world.rng.randint(1, 100))
                world.rng.choice(processes_of(command)).kill()
                await until(lambda: len(processes_of(command)) == PROCESSES, "the command has its processes", 20)
            await world.goes_on(50)
            await world.verdict()
            command.send(signal.SIGTERM)
            assert await command.ended(20) == 0, command.err[-3000:]
        finally:
            command.kill()
        assert "Traceback" not in command.err
