"""Processes that are kept: restarted, replaced, ended; with a small program in the place of a worker."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from processor.cli import keeper as keeper_module
from processor.cli.exits import DONE, USAGE
from processor.cli.keeper import Keeper, Kept, keep_together
from tests.support.program import ROOT, Program
from tests.support.until import until

PROGRAM = """\
import os, signal, sys, time
from processor.cli.exits import NotLoaded
from processor.cli.parent import Parent

stopped = []
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
parent = Parent.of_environment()
try:
    with parent.loading():
        try:
            sys.path.insert(0, os.getcwd())
            import subject
        except SyntaxError as error:
            raise NotLoaded("no", files=[error.filename])
        except ModuleNotFoundError:
            raise NotLoaded("no")
except NotLoaded:
    sys.exit(2)
print(f"{os.getpid()} {subject.WORD}", flush=True)
parent.ready()
while not stopped and subject.STAYS:
    time.sleep(0.01)
if subject.DRAIN:
    print(f"{os.getpid()} drains", flush=True)
end = time.monotonic() + subject.DRAIN
while time.monotonic() < end and len(stopped) < 2:
    time.sleep(0.01)
print(f"{os.getpid()} ended", flush=True)
"""


class Stage:
    """A folder with the program and its subject, and what a keeper told of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, dict[str, Any]]] = []
        (folder / "program.py").write_text(PROGRAM)
        self.output = (folder / "output").open("w+b")
        self._versions = 0
        self.write()

    def write(self, word: str = "first", drain: float = 0, stays: bool = True, fault: str = "") -> None:
        """Another subject, at once: half of one would be a fault of its own."""
        self._versions += 1
        fresh = self.folder / "subject.new"
        fresh.write_text(f"WORD, DRAIN, STAYS = {word!r}, {drain}, {stays}  # {self._versions}\n{fault}")
        fresh.replace(self.folder / "subject.py")

    def keeper(self, **options: Any) -> Keeper:
        kept = Kept(
            command=[sys.executable, str(self.folder / "program.py")],
            env={"PYTHONPATH": str(ROOT)},
            stdout=self.output.fileno(),
            **{"drain_seconds": 5, **options},
        )
        return Keeper(kept, self.tell)

    def tell(self, event: str, sentence: str, **fields: object) -> None:
        self.told.append((event, fields))

    @property
    def pids(self) -> list[int]:
        """Of the processes that became ready, in order."""
        return [fields["pid"] for event, fields in self.told if event == "process_ready"]

    @property
    def said(self) -> list[str]:
        return (self.folder / "output").read_text().splitlines()

    async def has(self, event: str, times: int = 1) -> None:
        await until(
            lambda: [name for name, _ in self.told].count(event) >= times, f"{event} {times} times: {self.told}", 15
        )

    async def says(self, words: str) -> None:
        await until(lambda: words in self.said, f"{words}: {self.said}", 15)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keeper_module, "FIRST_PAUSE_SECONDS", 0.02)
    stage = Stage(tmp_path)
    with stage.output:
        yield stage


@asynccontextmanager
async def kept(keeper: Keeper) -> AsyncIterator[asyncio.Task[int]]:
    """It runs while the block does; then it is stopped, twice if need be."""
    task = asyncio.create_task(keeper.run())
    try:
        yield task
    finally:
        keeper.stop(signal.SIGTERM)
        keeper.stop(signal.SIGTERM)
        await task


async def test_it_is_started_again_when_it_died(stage: Stage) -> None:
    """One that was killed has a successor, which is another process; stop() ends that in order, with 0."""
    keeper = stage.keeper()
    async with kept(keeper) as task:
        await stage.has("process_ready")
        os.kill(stage.pids[0], signal.SIGKILL)
        await stage.has("process_ready", 2)
        await stage.says(f"{stage.pids[1]} first")
        keeper.stop(signal.SIGTERM)
        assert await task == DONE
    assert ("process_died", {"pid": stage.pids[0], "code": -9, "pause_seconds": 0.02}) in stage.told
    assert f"{stage.pids[1]} ended" in stage.said
    assert stage.pids[0] != stage.pids[1]


async def test_the_pause_grows(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who dies again and again is waited for longer each time, up to a limit."""
    monkeypatch.setattr(keeper_module, "MAX_PAUSE_SECONDS", 0.05)
    stage.write(stays=False)
    async with kept(stage.keeper()):
        await stage.has("process_died", 4)
    pauses = [fields["pause_seconds"] for event, fields in stage.told if event == "process_died"]
    assert pauses[:4] == [0.02, 0.04, 0.05, 0.05]


async def test_one_that_may_end_is_over_then(stage: Stage) -> None:
    """With once=True its own end is the end; a kill is not."""
    stage.write(stays=True)
    async with kept(stage.keeper(once=True)) as task:
        await stage.has("process_ready")
        stage.write(stays=False)
        os.kill(stage.pids[0], signal.SIGKILL)
        assert await task == DONE
    assert len(stage.pids) == 2


async def test_what_cannot_run_is_over(stage: Stage) -> None:
    """Wrong usage is not tried again: its exit code is the keeper's, and the others end with it."""
    good, bad = stage.keeper(), stage.keeper()
    together = asyncio.create_task(keep_together([good, bad]))
    await stage.has("process_ready", 2)
    (stage.folder / "subject.py").unlink()
    os.kill(stage.pids[0], signal.SIGKILL)
    assert await together == USAGE
    assert f"{stage.pids[1]} ended" in stage.said


async def test_a_change_puts_a_new_one_in_its_place(stage: Stage) -> None:
    """The new one is ready before the old one is told to go, and the old one may finish what it has."""
    stage.write("old", drain=0.3)
    async with kept(stage.keeper(reload=True)):
        await stage.has("process_ready")
        stage.write("new")
        await stage.has("process_ready", 2)
        old, new = stage.pids
        await stage.says(f"{old} ended")
        assert stage.said.index(f"{new} new") < stage.said.index(f"{old} drains")
        stage.write("newest")
        await stage.has("process_ready", 3)
        await stage.says(f"{new} ended")


async def test_without_reload_nothing_is_watched(stage: Stage) -> None:
    """A change goes unnoticed until the process is started again."""
    async with kept(stage.keeper()):
        await stage.has("process_ready")
        stage.write("new")
        os.kill(stage.pids[0], signal.SIGKILL)
        await stage.has("process_ready", 2)
    assert "file_changed" not in [event for event, _ in stage.told]


async def test_a_fault_keeps_the_old_one(stage: Stage) -> None:
    """A syntax error is told and nothing else happens; the next change that can be imported takes over."""
    async with kept(stage.keeper(reload=True)):
        await stage.has("process_ready")
        stage.write(fault="def (:")
        await stage.has("reload_failed")
        os.kill(stage.pids[0], 0)
        stage.write("mended")
        await stage.has("process_ready", 2)
    assert [event for event, _ in stage.told].count("reload_failed") == 1
    assert any(line.endswith(" mended") for line in stage.said)


async def test_a_first_start_with_a_fault_waits(stage: Stage) -> None:
    """With reload a module that cannot be imported is waited for; without it is the end."""
    stage.write(fault="def (:")
    assert await stage.keeper().run() == USAGE
    async with kept(stage.keeper(reload=True)):
        await stage.has("start_failed")
        stage.write("mended")
        await stage.has("process_ready")


async def test_who_is_cancelled_ends_it_too(stage: Stage) -> None:
    """A keeper that is cancelled lets its process drain before it goes."""
    stage.write(drain=0.2)
    task = asyncio.create_task(stage.keeper().run())
    await stage.has("process_ready")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert f"{stage.pids[0]} ended" in stage.said


async def test_stop_while_it_starts(stage: Stage) -> None:
    """A process that is just being made hears of it too."""
    keeper = stage.keeper()
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(0)  # begins to make it
    keeper.stop(signal.SIGTERM)
    async with asyncio.timeout(15):
        assert await task == DONE


async def test_a_second_signal(stage: Stage) -> None:
    """The first makes it drain, a second ends it at once, whatever it does."""
    stage.write(drain=60)
    keeper = stage.keeper()
    async with kept(keeper) as task:
        await stage.has("process_ready")
        keeper.stop(signal.SIGINT)
        await stage.says(f"{stage.pids[0]} drains")
        keeper.stop(signal.SIGINT)
        assert await task == DONE
    assert f"{stage.pids[0]} ended" not in stage.said


async def test_one_that_does_not_end_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the time to drain, and a little more."""
    monkeypatch.setattr(keeper_module, "KILL_SECONDS", 0.1)
    stage.write(drain=60)
    keeper = stage.keeper(drain_seconds=0.1)
    async with kept(keeper) as task:
        await stage.has("process_ready")
        keeper.stop(signal.SIGTERM)
        assert await task == DONE
    assert f"{stage.pids[0]} ended" not in stage.said


KEEPING = """\
import asyncio, sys
from processor.cli.keeper import Keeper, Kept

def tell(event, sentence, **fields):
    print(event, fields, flush=True)

async def main():
    await Keeper(Kept(command=[sys.executable, "program.py"], drain_seconds=5), tell).run()

asyncio.run(main())
"""


async def test_it_ends_with_its_keeper(stage: Stage, program: Callable[..., Program]) -> None:
    """A keeper that is killed leaves nothing behind."""
    if sys.platform != "linux":
        pytest.skip("the kernel tells of a parent's death on Linux only")
    keeping = program("python", "-c", KEEPING, cwd=stage.folder)
    await keeping.says("process_ready", 15)
    pid = int(keeping.out.split("'pid': ")[1].split("}")[0])
    keeping.process.kill()
    await until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text(), "it is gone")
