"""The gateway as a process: one event loop on a socket that is already ours, ended by SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn
import uvloop

from processor.core.errors import SettingsError
from processor.core.settings import Settings

if TYPE_CHECKING:
    from gateway.auth import Authorize
    from processor.client.tailrace import Tailrace

__all__ = [
    "PROTOCOL",
    "Web",
    "app_of_environment",
    "authorize_for",
    "config_for",
    "gateway_app",
    "grace_seconds",
    "serve_on_uvloop",
]

T = TypeVar("T")
CONSOLE_VARIABLE = "TAILRACE_CONSOLE"  # between a gateway and its own --workers processes
PROTOCOL = "gateway.protocol:Protocol"
ENDING = (signal.SIGINT, signal.SIGTERM)


def authorize_for(settings: Settings) -> Authorize | None:
    """Who may do what at a gateway that no application stands in front of; None: everybody, on this machine only.

    Raises SettingsError for an address that others reach, without a key.
    """
    from gateway.auth import is_loopback, links_only

    if is_loopback(settings.host):
        return None
    if settings.jwt_key is None:
        raise SettingsError(
            f"{settings.host} is reached by other machines, and nobody is asked who they are: without a key the gateway "
            "binds loopback only.",
            remedy="Set TAILRACE_JWT_KEY, then links read and nothing else; or --host 127.0.0.1 behind a proxy with a login; "
            "or mount Gateway(tail, authorize=...) in your own app.",
        )
    return links_only


def gateway_app(tail: Tailrace, *, console: bool) -> Any:
    """The standalone gateway: namespaces at /api/{namespace}, what belongs to the process at the root."""
    from gateway.app import standalone

    return standalone(tail, authorize=authorize_for(tail.settings), console=console)


def serve_on_uvloop(work: Coroutine[Any, Any, T]) -> T:
    """Run it on uvloop. SIGINT is Web's while it serves, before and behind that it is KeyboardInterrupt."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def config_for(app: Any, settings: Settings, *, factory: bool = False, workers: int = 1) -> uvicorn.Config:
    """uvicorn as the gateway wants it: httptools with our protocol, uvloop, no WebSockets, our own logs."""
    return uvicorn.Config(
        app,
        factory=factory,
        workers=workers,
        http=PROTOCOL,
        loop="uvloop",
        ws="none",
        lifespan="off",  # the app opens itself
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,  # above the 60 s of most proxies, which must be the ones that close
        timeout_graceful_shutdown=grace_seconds(settings),
    )


def grace_seconds(settings: Settings) -> int:
    """What requests have at the end; streams end at once."""
    return max(1, math.ceil(settings.drain_seconds))


class Web(uvicorn.Server):
    """uvicorn that returns from serve() when asked to end, instead of dying of the same signal again.

    So that what comes behind it, the runs of this process and the embedded server, ends in order. `ended_by` says what;
    `on_end` is called with each signal.
    """

    ended_by: int = 0
    on_end: Callable[[int], object] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._end) for number in ENDING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.ended_by = self.ended_by or number
        if self.on_end is not None:
            self.on_end(number)
        self.handle_exit(number, frame)

    async def on(self, listener: socket.socket, tail: Tailrace) -> int:
        """Serve until SIGINT or SIGTERM; which one it was, 0 for neither. Ends lost runs although nobody asks anything."""
        from gateway.collector import calm_collector

        (await tail.session()).keep_passes()
        calm_collector()
        await self.serve(sockets=[listener])
        return self.ended_by


def app_of_environment() -> Any:
    """The app of one of several processes, told by the environment. uvicorn imports it by name in each."""
    from gateway.collector import calm_collector
    from processor.client.tailrace import Tailrace
    from processor.observe.logs import configure

    settings = Settings.from_env(os.environ, folder=Path.cwd())
    configure(settings.log, level="INFO")
    app = gateway_app(Tailrace(settings=settings), console=os.environ.get(CONSOLE_VARIABLE) == "1")
    calm_collector()
    return app
