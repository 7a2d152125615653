"""Following files on a real server: what is written to a path is in its run, byte for byte, whatever happens to the file."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processor import Tailrace
from processor.core.errors import RunClosed
from processor.core.events import draft
from processor.core.json import loads
from processor.core.settings import Settings
from processor.ship import following
from processor.ship.entries import Portion, Splitter
from processor.ship.files import LogFile
from processor.ship.following import Follower, Options
from processor.ship.packing import bytes_of
from processor.ship.shipper import Shipper
from processor.store import positions
from processor.store.runs import read_feed, read_state
from tests.support.servers import TestServer
from tests.support.until import until

OPTIONS = Options(host="h", silence_seconds=0.2)


@pytest.fixture
async def tail(server: TestServer, namespace: str) -> AsyncIterator[Tailrace]:
    async with Tailrace(server.url, namespace=namespace) as tail:
        yield tail


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes faster."""
    for name, seconds in {"POLL": 0.02, "ROTATED": 0.1, "LATE_POLL": 0.05, "RETRY": 0.05}.items():
        monkeypatch.setattr(following, f"{name}_SECONDS", seconds)


class Log:
    """A file, and the run that it is shipped to."""

    def __init__(self, tail: Tailrace, path: Path, run: str = "logs") -> None:
        self.tail, self.path, self.run = tail, path, run

    def add(self, text: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(text)

    async def data(self) -> list[dict[str, Any]]:
        entries = await read_feed(await self.tail.session(), self.run, 1)
        return [loads(b"{" + payload)["data"] for _, payload in entries]

    async def text(self) -> bytes:
        return b"".join(map(bytes_of, await self.data()))

    async def has(self, text: bytes) -> None:
        found = b""

        async def same() -> bool:
            nonlocal found
            found = await self.text()
            return found == text

        try:
            await until(same, f"the feed is {text!r}")
        except AssertionError as late:
            raise AssertionError(f"{late}; it is {found!r}") from None

    async def once(self, options: Options = OPTIONS) -> Follower:
        follower = Follower(await self.tail.session(), str(self.path), self.run, replace(options, once=True))
        await follower.run()
        return follower

    @asynccontextmanager
    async def followed(self, options: Options = OPTIONS) -> AsyncIterator[Follower]:
        follower = Follower(await self.tail.session(), str(self.path), self.run, options)
        task = asyncio.create_task(follower.run())
        try:
            yield follower
            if task.done():
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def log(tail: Tailrace, tmp_path: Path) -> Log:
    return Log(tail, tmp_path / "a.log")


async def test_it_grows(log: Log) -> None:
    """What is written comes, entries of one moment in one event, a trace as one of its lines."""
    log.add(b"one\ntwo\n  at x\nthree\n")
    async with log.followed():
        await log.has(b"one\ntwo\n  at x\nthree\n")
        log.add(b"fo")
        log.add(b"ur\n")
        await log.has(b"one\ntwo\n  at x\nthree\nfour\n")
    data = await log.data()
    assert [line for one in data for line in one["lines"]] == ["one", "two\n  at x", "three", "four"]
    assert data[0]["logger"] == str(log.path)
    state = await read_state(await log.tail.session(), log.run)
    assert state is not None
    assert state.status == "running"


async def test_a_restart_goes_on(log: Log) -> None:
    """Another process goes on behind the last line that the server has, without a file that says so."""
    log.add(b"one\n")
    assert (await log.once()).shipped == 4
    assert (await log.once()).shipped == 0
    log.add(b"two\nno end")
    assert (await log.once()).shipped == 10
    log.add(b" of the line\n")
    await log.once()
    assert await log.text() == b"one\ntwo\nno end of the line\n"
    assert list(log.path.parent.iterdir()) == [log.path]


async def test_renamed(log: Log) -> None:
    """A renamed file is finished, what is still written into it included, before the next one begins."""
    log.add(b"one\n")
    async with log.followed():
        await log.has(b"one\n")
        with log.path.open("ab", buffering=0) as old:
            log.path.rename(log.path.with_name("a.log.1"))
            log.add(b"three\n")
            old.write(b"two\n")
            await log.has(b"one\ntwo\nthree\n")
            old.write(b"late\n")
            await log.has(b"one\ntwo\nthree\nlate\n")
        log.add(b"four\n")
        await log.has(b"one\ntwo\nthree\nlate\nfour\n")


async def test_renamed_to_elsewhere(log: Log, tmp_path: Path) -> None:
    """A file that is moved away, or removed, is finished all the same."""
    log.add(b"one\n")
    async with log.followed():
        await log.has(b"one\n")
        with log.path.open("ab", buffering=0) as old:
            log.path.unlink()
            old.write(b"two")
            log.add(b"three\n")
            await log.has(b"one\ntwothree\n")
    assert [one.get("cut") for one in await log.data()] == [None, True, None]


async def test_emptied(log: Log) -> None:
    """An emptied file is a new one, though its first line is the same; what was read of the old one is not lost."""
    log.add(b"one\ntwo\n")
    async with log.followed(replace(OPTIONS, silence_seconds=60)):
        await log.has(b"one\n")
        os.truncate(log.path, 0)
        await log.has(b"one\ntwo\n")
        log.add(b"one\nthree\n")
        await log.has(b"one\ntwo\none\n")
        os.truncate(log.path, 0)
        log.add(b"one\nlonger than before, so that its size does not tell\n")
        log.add(b"five\n")
        await log.has(b"one\ntwo\none\nthree\none\nlonger than before, so that its size does not tell\n")


async def test_copied_and_emptied(log: Log) -> None:
    """Lines that were written just before the file was emptied are read from its copy; entries stay whole."""
    log.add(b"one\ntwo\n")
    async with log.followed(replace(OPTIONS, silence_seconds=60)):
        await log.has(b"one\n")
        log.add(b"  goes on\nthree\n")
        shutil.copyfile(log.path, log.path.with_name("a.log.1"))
        os.truncate(log.path, 0)
        log.add(b"four\nfive\n")
        await log.has(b"one\ntwo\n  goes on\nthree\nfour\n")
    lines = [line for one in await log.data() for line in one["lines"]]
    assert lines == ["one", "two\n  goes on", "three", "four"]


def copy_and_empty(log: Log) -> None:
    """As logrotate does it with two generations."""
    first = log.path.with_name("a.log.1")
    if first.exists():
        first.rename(log.path.with_name("a.log.2"))
    shutil.copyfile(log.path, first)
    os.truncate(log.path, 0)


async def test_emptied_twice_between_two_looks(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written, copied and emptied while its first line was waited for is not overlooked."""
    looks: list[object] = []
    identified = LogFile.identified

    def telling(file: LogFile, *args: Any, **options: Any) -> object:
        looks.append(found := identified(file, *args, **options))
        return found

    monkeypatch.setattr(LogFile, "identified", telling)
    log.add(b"one\n")
    async with log.followed():
        await log.has(b"one\n")
        copy_and_empty(log)
        await until(lambda: looks[-3:] == [None, None, None], "it waits for a first line")
        log.add(b"two\n")
        copy_and_empty(log)
        log.add(b"three\n")
        await log.has(b"one\ntwo\nthree\n")


@pytest.mark.parametrize("rotate", ["copy", "rename"])
async def test_rotated_while_it_plans(log: Log, monkeypatch: pytest.MonkeyPatch, rotate: str) -> None:
    """What comes between the look at the folder and the server's answer is not overlooked."""
    log.add(b"one\n")
    await log.once()
    read = positions.read_positions
    left = [b"three\n", b"two\n"]

    async def slowly(space: Any, run: str, prefix: str) -> Any:
        found = await read(space, run, prefix)
        if left:
            if rotate == "copy":
                copy_and_empty(log)
            else:
                if log.path.with_name("a.log.1").exists():
                    log.path.with_name("a.log.1").rename(log.path.with_name("a.log.2"))
                log.path.rename(log.path.with_name("a.log.1"))
            log.add(left.pop())
        return found

    monkeypatch.setattr(following, "read_positions", slowly)
    await log.once()
    assert await log.text() == b"one\ntwo\nthree\n"


async def test_emptied_before_anything_was_sent(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The very first entry, still waited for, is not lost when its file is copied and emptied."""
    log.add(b"one\n")
    fed: list[bytes] = []

    class Telling(Splitter):
        def feed(self, chunk: bytes) -> list[Portion]:
            fed.append(chunk)
            return super().feed(chunk)

    monkeypatch.setattr(following, "Splitter", Telling)
    async with log.followed(replace(OPTIONS, silence_seconds=60)):
        await until(lambda: fed, "it is read")
        copy_and_empty(log)
        await log.has(b"one\n")


async def test_it_appears_later(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that is not there yet is waited for, and a folder in its place is no end either."""
    log.path.mkdir()
    async with log.followed() as follower:
        await until(lambda: follower.missing is not None, "it is told")
        log.path.rmdir()
        log.add(b"one\n")
        await log.has(b"one\n")
        assert follower.missing is None
    log.path.unlink()
    assert isinstance((await log.once()).missing, FileNotFoundError)


async def test_from_end(log: Log) -> None:
    """From its end, what was there is left out, for every later process too; what comes after it is not."""
    log.add(b"old\nhalf")
    options = replace(OPTIONS, from_end=True)
    assert (await log.once(options)).shipped == 4
    assert await log.text() == b"half"
    log.add(b" and half\nnew\n")
    await log.once()
    assert await log.text() == b"half and half\nnew\n"
    log.path.rename(log.path.with_name("a.log.1"))
    log.add(b"next\n")
    await log.once(options)
    assert await log.text() == b"half and half\nnew\nnext\n"


async def test_marked_and_rotated(log: Log) -> None:
    """What was to be left out is left out when the file is copied and emptied before anything was written."""
    log.add(b"old\n")
    options = replace(OPTIONS, from_end=True)
    await log.once(options)
    log.add(b"new\n")
    shutil.copyfile(log.path, log.path.with_name("a.log.1"))
    os.truncate(log.path, 0)
    log.add(b"newer\n")
    await log.once(options)
    assert await log.text() == b"new\nnewer\n"


async def test_two_shippers(log: Log) -> None:
    """Two processes that ship the same file by mistake write each line once all the same."""
    async with log.followed(), log.followed():
        expected = b""
        for at in range(30):
            log.add(b"line %d\n" % at)
            expected += b"line %d\n" % at
            await asyncio.sleep(0.005 * (at % 3))
        await log.has(expected)


async def test_an_ended_run_takes_no_more(log: Log) -> None:
    """Where somebody ended the run, its file is given up and the others are not."""
    log.add(b"one\n")
    await log.once()
    session = await log.tail.session()
    await session.producer.writer(log.run).put(draft("run.finished", b'{"result":null}'))
    log.add(b"two\n")
    with pytest.raises(RunClosed):
        await log.once()
    other = Log(log.tail, log.path.with_name("b.log"), "other")
    other.add(b"fine\n")
    paths = [str(log.path), str(other.path)]
    began: list[Follower] = []
    shipper = Shipper(session, paths, replace(OPTIONS, once=True), began=began.append)
    await shipper.run()
    assert [follower.shipped for follower in began] == [8, 5]
    assert await shipper.finish() == sorted(follower.run_id for follower in began)
    assert await shipper.finish() == []


async def test_patterns_find_what_comes(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that begins to match a pattern is followed from its first line; one run may take them all."""
    monkeypatch.setattr("processor.ship.shipper.LOOK_SECONDS", 0.02)
    session = await log.tail.session()
    pattern = str(log.path.with_name("*.log"))
    shipper = Shipper(session, [pattern], OPTIONS, run=log.run, began=lambda _: None)
    task = asyncio.create_task(shipper.run())
    try:
        log.add(b"one\n")
        await log.has(b"one\n")
        log.path.with_name("b.log").write_bytes(b"two\n")
        await log.has(b"one\ntwo\n")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_small_limit(server: TestServer, namespace: str, tmp_path: Path) -> None:
    """With the smallest limit of an event, lines longer than that come whole, in pieces that say so."""
    settings = Settings(redis_url=server.url, namespace=namespace, max_event_kib=1)
    async with Tailrace(settings=settings) as tail:
        log = Log(tail, tmp_path / "a.log")
        text = b"x" * 5000 + b"\n" + b"\x01\xff" * 700 + b"\nshort\n"
        log.add(text)
        await log.once()
        assert await log.text() == text
