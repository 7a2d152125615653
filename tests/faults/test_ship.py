"""Real logs, shipped while everything happens to the shipper, the file and the server: in the feed byte for byte, once."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from processor.core.json import loads
from processor.ship.packing import bytes_of
from tests.faults.world import World, the_world
from tests.support.program import Program
from tests.support.recorded import log_files
from tests.support.until import until

SECONDS = 5.0  # of writing
HISTORY = 40  # rotated files that stay


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with the_world(gateways=0) as world:
        yield world


class Writer:
    """Writes a recorded log line by line, as a program and its logrotate do."""

    def __init__(self, path: Path, text: bytes, rng: random.Random, ways: str) -> None:
        """ways: of rotation, `rename` or `copy`."""
        self.path, self.rng, self.ways = path, rng, ways
        self.lines = text.splitlines(keepends=True)
        self.text = text
        self.rotated_at: list[int] = []  # bytes that were written by then
        self.may_rotate = False
        self._out = path.open("ab", buffering=0)

    async def write(self, seconds: float) -> None:
        begin = asyncio.get_running_loop().time()
        next_rotation = self.rng.uniform(0.1, 0.4)
        for at, line in enumerate(self.lines):
            now = asyncio.get_running_loop().time() - begin
            if line.startswith(b"[") and self.may_rotate and now > next_rotation:
                self._rotate()
                self.rotated_at.append(len(b"".join(self.lines[:at])))
                next_rotation = now + self.rng.expovariate(1 / 0.5)
            cut = self.rng.randrange(len(line)) if self.rng.random() < 0.1 else 0
            if cut:
                self._out.write(line[:cut])
                await asyncio.sleep(self.rng.uniform(0, 0.01))
            self._out.write(line[cut:])
            due = (at + 1) / len(self.lines) * seconds
            if due > now:
                await asyncio.sleep(due - now)
        self._out.close()

    def _rotate(self) -> None:
        """As logrotate: each older file gets the next number; then the file is renamed, or copied and emptied."""
        for number in range(HISTORY, 0, -1):
            older = self.path.with_name(f"{self.path.name}.{number}")
            if older.exists():
                older.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        first = self.path.with_name(f"{self.path.name}.1")
        if self.ways == "copy":
            shutil.copyfile(self.path, first)
            os.truncate(self.path, 0)
            return
        self.path.rename(first)
        self._out.close()
        self._out = self.path.open("ab", buffering=0)


class Shipping:
    """The command, started again after each death."""

    def __init__(self, world: World, paths: list[Path], more: tuple[str, ...]) -> None:
        self.world, self.paths, self._more = world, paths, more
        self.programs: list[Program] = []
        self.start()

    def command(self, *more: str) -> Program:
        words = ("ship", *map(str, self.paths), "--host", "here", "--silence", "5s", *self._more, *more)
        return Program("python", "-m", "processor.cli.main", "-v", *words, env=self.world.env)

    def start(self) -> None:
        self.programs.append(self.command())

    def kill(self) -> None:
        self.programs[-1].kill()

    def run_of(self, path: Path) -> str:
        """As the command says it."""
        for program in self.programs:
            for line in program.out.splitlines():
                told = loads(line)
                if told["file"] == str(path):
                    return str(told["run"])
        return ""


async def shipped(world: World, run: str) -> list[dict[str, Any]]:
    """The data of a run's events."""
    return [loads(envelope)["data"] for _, envelope in (await world.truth(run)).events]


def differences(events: list[dict[str, Any]], source: bytes) -> list[str]:
    """Where the feed's text leaves the source, with the events around; empty if it does not."""
    at = 0
    for number, data in enumerate(events):
        part = bytes_of(data)
        if source[at : at + len(part)] != part:
            again = source.find(part)
            around = [(one["offset"], len(bytes_of(one))) for one in events[max(0, number - 4) : number + 4]]
            return [f"event {number + 1} is not what stands at {at}, but at {again}; (offset, length) around: {around}"]
        at += len(part)
    return [] if at == len(source) else [f"the feed ends at {at} of {len(source)}"]


async def torment(world: World, shipping: Shipping, rng: random.Random, done: asyncio.Event) -> list[str]:
    """Kills the shipper, the server, and both, until the writers are done."""
    happened = []
    while not done.is_set():
        what = rng.choice(["shipper", "shipper", "server", "tail", "both"])
        happened.append(what)
        if what in ("shipper", "both"):
            shipping.kill()
        kept = world.aof_bytes()
        await asyncio.sleep(rng.uniform(0, 0.3))
        if what == "server":
            await world.kill_server()
            await asyncio.sleep(rng.uniform(0, 0.3))
            await world.start_server()
        elif what in ("tail", "both"):
            await world.lose_tail(kept)
        if what in ("shipper", "both"):
            shipping.start()
        await asyncio.sleep(rng.uniform(0.2, 1.2))
    return happened


@pytest.mark.parametrize("more", [(), ("--run", "all")], ids=["a run each", "one run"])
async def test_real_logs_byte_for_byte_once(world: World, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Kills (-9) of shipper and server, lost tails, renamed and emptied files: each line is in the feed once, in order."""
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    rng = random.Random(seed)
    sources = {file.name: file.read_bytes() for file in log_files()}
    renamed, copied = tmp_path / "renamed.log", tmp_path / "copied.log"
    writers = [
        Writer(renamed, sources["kafka-broker0-server.log"], random.Random(f"{seed}/r"), "rename"),
        Writer(copied, sources["kafka-broker1-server.log"], random.Random(f"{seed}/c"), "copy"),
    ]
    shipping = Shipping(world, [renamed, copied], more)
    done = asyncio.Event()
    writing = [asyncio.create_task(writer.write(SECONDS)) for writer in writers]
    try:
        runs = []
        for path in (renamed, copied):
            await until(lambda path=path: shipping.run_of(path), "the run is told")  # type: ignore[misc]
            runs.append(shipping.run_of(path))
        for run, writer in zip(runs, writers, strict=True):
            await until(lambda run=run: world.status(run), "its first lines are in the feed", 10)  # type: ignore[misc]
            writer.may_rotate = True
        tormenting = asyncio.create_task(torment(world, shipping, rng, done))
        await asyncio.gather(*writing)
        done.set()
        happened = await tormenting
        shipping.programs[-1].send(signal.SIGTERM)
        assert await shipping.programs[-1].ended() in (0, -signal.SIGTERM)  # it may just have been started
        shipping.programs.append(shipping.command("--once"))
        assert await shipping.programs[-1].ended(20) == 0
    finally:
        done.set()
        shipping.kill()
    said = "".join(program.err for program in shipping.programs)
    print(said)
    print(f"rotations {[len(writer.rotated_at) for writer in writers]}, happened {happened}")
    for run, writer in zip(runs, writers, strict=True):
        print(f"{writer.ways}: rotated at {writer.rotated_at}")
        events = [data for data in await shipped(world, run) if data["logger"] == str(writer.path)]
        assert differences(events, writer.text) == []
        divided = [(data["offset"], line) for data in events for line in data["lines"] if not line.startswith("[")]
        assert divided == []
    assert "Traceback" not in said
    assert "never retrieved" not in said
