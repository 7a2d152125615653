"""A writer of SSE (a gateway, or the C program) in its process, its subscribers in another, and its runs."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import unquote

from bench.serving import path_of
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings

__all__ = ["Fleet", "Window", "cpu_seconds", "resident_bytes"]

DELIVERED: Final = 0.999
LATE_MS: Final = 250.0
SETTLE_SECONDS: Final = 0.4  # what is still on its way when the publisher has ended
ON_PACE_MS: Final = 100.0  # a publisher that is further behind did not publish at the rate that was asked for


@dataclass(frozen=True, slots=True)
class Window:
    """What came of some seconds of publishing."""

    rate: float  # frames a second, as published
    expected: int
    frames: int
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the writer, a frame
    behind_ms: float  # of the publisher

    @property
    def sustained(self) -> bool:
        return self.frames >= DELIVERED * self.expected and self.p99_ms < LATE_MS and self.behind_ms < ON_PACE_MS

    def __str__(self) -> str:
        share = self.frames / self.expected
        return f"{share:.2%} delivered, p50 {self.p50_ms:.1f}, p99 {self.p99_ms:.1f} ms, {self.cpu_us:.2f} us a frame"


def cpu_seconds(pid: int) -> float:
    """On a core, all threads, in nanoseconds' resolution (Linux's schedstat)."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            spent += int((task / "schedstat").read_text().split()[0])
    return spent / 1e9


def resident_bytes(pid: int) -> int:
    """The resident set."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) * 1024


def _unix_path(url: str) -> str:
    return unquote(url.removeprefix("unix://"))


async def _created(url: str, runs: Sequence[str]) -> Keyspace:
    """Runs of one event each, and where their keys are."""
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        for sent in [tail.run(run).emit("bench.begun") for run in runs]:
            await sent
        return (await tail.session()).keys


class Fleet:
    """One writer with its subscribers. whole: events are in feeds and hashes too, not only published."""

    def __init__(
        self,
        kind: str,
        url: str,
        programs: dict[str, Path],
        folder: Path,
        *,
        runs: int,
        subscribers: int,
        whole: bool,
    ) -> None:
        """subscribers: of all runs together. kind: "c" or one of bench.serving."""
        self.kind = kind
        self._url, self._programs, self._whole = url, programs, whole
        self._subscribers, self._next_seq = subscribers, 2
        name = secrets.token_hex(4)
        self._runs = [f"{name}-{n:04}" for n in range(runs)]
        self._files = folder / name
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Fleet:
        keys = asyncio.run(_created(self._url, self._runs))
        rows = [(run, k.channel(run), k.feed(run), k.run(run)) for run in self._runs for k in [keys.of(run)]]
        self._files.mkdir()
        self._write("runs", [f"{run} {channel}" for run, channel, _, _ in rows])
        self._write("channels", [f"{channel} {feed} {hash}" for _, channel, feed, hash in rows])
        prefix = "" if self.kind == "c" else self.kind
        paths = [path_of(prefix, self._runs[n % len(self._runs)]) for n in range(self._subscribers)]
        self._write("paths", paths)
        try:
            self._writer = self._start(*self._command())
            port = self._line(self._writer)
            self._load = self._start(str(self._programs["load"]), port, str(self._files / "paths"))
            if self._line(self._load) != "ready":
                raise RuntimeError(f"{self.kind}: the subscribers did not come")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _command(self) -> list[str]:
        if self.kind == "c":
            return [str(self._programs["writer"]), _unix_path(self._url), str(self._files / "runs")]
        untold = [] if self._whole else ["--trust-messages"]
        return [sys.executable, "-m", "bench.serving", self.kind, self._url, *untold]

    def _write(self, name: str, lines: Sequence[str]) -> None:
        (self._files / name).write_text("\n".join(lines) + "\n")

    def _start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    @staticmethod
    def _line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
        return line.strip()

    def _ask(self, question: str) -> str:
        stdin: IO[str] | None = self._load.stdin
        assert stdin is not None
        stdin.write(question)
        stdin.flush()
        return self._line(self._load)

    def publish(self, frames_per_second: float, seconds: float, *, size: int = 160) -> Window:
        """Events at such a pace that subscribers are to get so many frames. size: of a payload, so that a frame has 245 bytes."""
        readers = self._subscribers // len(self._runs)
        events = max(1, round(frames_per_second / readers * seconds / len(self._runs))) * len(self._runs)
        arguments = [str(events), str(self._next_seq), str(size), "1" if self._whole else "0"]
        files = [_unix_path(self._url), str(self._files / "channels")]
        self._next_seq += events // len(self._runs)
        self._ask("r")
        before = cpu_seconds(self._writer.pid)
        publisher = subprocess.run(
            [str(self._programs["publisher"]), *files, str(frames_per_second / readers), *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        published: dict[str, Any] = json.loads(publisher.stdout)
        expected = events * readers
        told = self._settled(expected)
        cpu = cpu_seconds(self._writer.pid) - before
        return Window(
            rate=expected / max(published["seconds"], 1e-9),
            expected=expected,
            frames=told["frames"],
            p50_ms=told["p50_ms"],
            p99_ms=told["p99_ms"],
            cpu_us=cpu / max(1, told["frames"]) * 1e6,
            behind_ms=published["behind_ms"],
        )

    def _settled(self, expected: int) -> dict[str, Any]:
        """What the subscribers counted once they have all, or no more comes."""
        told: dict[str, Any] = {}
        for _ in range(8):
            told = json.loads(self._ask("p"))
            if told["frames"] >= expected:
                break
            time.sleep(SETTLE_SECONDS / 8)
        return told

    def close(self) -> None:
        """The subscribers go first, then their writer."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._processes.clear()
