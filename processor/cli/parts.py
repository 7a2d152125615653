"""What `tailrace up` keeps beside its gateway: a worker and the user's web app, each in a process of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from processor.cli.children import own_command
from processor.cli.keeper import Keeper, Kept
from processor.cli.output import Output
from processor.cli.ports import http_url, port_of
from processor.cli.voice import Voice
from processor.cli.webapp import web_command_words
from processor.cli.worker import Order, worker_command
from processor.core.settings import Settings, variable_of

__all__ = ["Parts"]


class Parts:
    """One that fails says so and takes nothing along. Their output goes to stderr: stdout is for `up`'s own record."""

    def __init__(
        self,
        out: Output,
        settings: Settings,
        tail: str | None,
        web: str | None,
        listener: socket.socket | None,
        *,
        reload: bool,
    ) -> None:
        """tail: MODULE:TAIL of the worker. web: MODULE:APP, served on the listener. settings: with the server's address."""
        self._out, self._settings = out, settings
        self.url = http_url(settings.host, port_of(listener)) if listener is not None else None
        base = Kept(
            command=(),
            env=_environment(settings, color=out.options.color),
            stdout=sys.stderr.fileno(),
            reload=reload,
            drain_seconds=settings.drain_seconds,
        )
        self._kept: dict[str, Kept] = {}
        if tail is not None:
            self._kept["worker"] = replace(base, command=worker_command(out.options, Order(target=tail)))
        if web is not None and listener is not None:
            command = own_command(*web_command_words(web, listener), module="processor.cli.webapp")
            self._kept["web"] = replace(base, command=command, pass_fds=[listener.fileno()])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callable[[int], None]]:
        """While the block runs, and until they have ended behind it. Yields what passes signals on to them, in the main thread."""
        loop = asyncio.get_running_loop()
        keepers = {
            name: Keeper(kept, Voice(self._out, self._settings, "tailrace.up", name))
            for name, kept in self._kept.items()
        }
        tasks = [asyncio.create_task(self._run(name, keeper), name=name) for name, keeper in keepers.items()]
        told = False

        def stop(number: int) -> None:
            nonlocal told
            told = True
            for keeper in keepers.values():
                loop.call_soon_threadsafe(keeper.stop, number)

        try:
            yield stop
        finally:
            if not told:
                stop(signal.SIGTERM)
            await asyncio.gather(*tasks)

    async def _run(self, name: str, keeper: Keeper) -> None:
        code = await keeper.run()
        if code:
            Voice(self._out, self._settings, "tailrace.up", name)(
                "part_failed", f"cannot run and ended with {code}; the rest goes on", code=code
            )


def _environment(settings: Settings, *, color: bool) -> Mapping[str, str]:
    """What `up` was told by flags, and what it brought itself. Keys are read from the data folder."""
    told = {
        "redis_url": settings.redis_url,
        "namespace": settings.namespace,
        "data_dir": settings.data_dir,
        "public_url": settings.public_url or http_url(settings.host, settings.port),
    }
    plain = {} if color else {"NO_COLOR": "1"}
    return {variable_of(name): str(value) for name, value in told.items() if value is not None} | plain
