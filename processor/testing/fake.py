"""fakeredis behind a real socket of loopback, with a clock that can be moved: the same connections, the same Lua, no server.

It has neither INFO nor CONFIG, so nothing checks it; it speaks RESP2 here (its RESP3 leaks into Lua). Unit tests only: what
crashes, blocks or loses connections is tested on a real server.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final, NamedTuple

import redis

from processor.core.errors import SettingsError

__all__ = ["Clock", "Fake", "running_fake"]

_READ_THE_TIME: Final = (
    "fakeredis._helpers",
    "fakeredis._socket._base",
    "fakeredis.commands_mixins.server_mixin",
    "fakeredis.model._stream",
)


class Clock:
    """What fakeredis takes for the time: the real one plus `ahead` seconds. Stands in for the module `time`.

    One for the process, since the modules are: fakes that run side by side share their time.
    """

    def __init__(self) -> None:
        self.ahead = 0.0
        self._users = 0
        self._lock = threading.Lock()

    def time(self) -> float:
        return time.time() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def acquire(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self.ahead = 0.0
                _read_time_from(self)

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _read_time_from(time)


_CLOCK: Final = Clock()


def _read_time_from(source: Clock | ModuleType) -> None:
    for name in _READ_THE_TIME:
        vars(importlib.import_module(name))["time"] = source


class Fake(NamedTuple):
    url: str
    clock: Clock


@contextmanager
def running_fake() -> Iterator[Fake]:
    """A fresh one, in a daemon thread. Raises SettingsError where fakeredis is not installed."""
    try:
        from fakeredis import TcpFakeServer
        from fakeredis._clients._tcp_server import TCPFakeRequestHandler
    except ImportError as error:
        raise SettingsError(
            "the sandbox needs fakeredis, which is not installed.", remedy='pip install "tailrace[testing]"'
        ) from error

    class Handler(TCPFakeRequestHandler):  # type: ignore[misc, unused-ignore]  # fakeredis is partly typed
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

    server = TcpFakeServer(("127.0.0.1", 0), server_type="valkey", server_version=(8, 0))
    server.RequestHandlerClass = Handler
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    _CLOCK.acquire()
    thread.start()
    try:
        yield Fake(f"redis://127.0.0.1:{server.server_address[1]}", _CLOCK)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
        _CLOCK.release()
