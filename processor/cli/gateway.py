"""`tailrace gateway`: HTTP and SSE for all runs of a server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Annotated

import structlog
import typer
from uvicorn.supervisors import Multiprocess

from processor.cli.exits import DONE, INTERRUPTED
from processor.cli.opening import checked
from processor.cli.output import Output, output_of
from processor.cli.ports import http_url, listen
from processor.cli.serving import CONSOLE_VARIABLE, Web, authorize_for, config_for, gateway_app, serve_on_uvloop
from processor.cli.voice import speaks_to_people
from processor.core.settings import Settings, variable_of
from processor.observe.logs import configure

__all__ = ["gateway"]

log = structlog.get_logger("tailrace.gateway")


def gateway(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Instead of TAILRACE_HOST (127.0.0.1).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Instead of TAILRACE_PORT (8600); 0: a free one.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the port.")] = 1,
    console: Annotated[bool, typer.Option("--console", help="Serve the console at /.")] = False,
) -> None:
    """Serve HTTP and SSE, for runs of any process that uses the same server."""
    out = output_of(ctx)
    settings = out.options.settings()
    if host is not None:
        settings = settings.changed("--host", host=host)
    if port is not None:
        settings = settings.changed("--port", port=port)
    authorize_for(settings)  # says no before anything is started
    configure(settings.log, level="INFO")
    asyncio.run(_check(settings))
    listener = listen(settings.host, settings.port, "tailrace gateway")
    with listener:
        settings = settings.changed("--port", port=listener.getsockname()[1])
        _welcome(out, settings)
        if workers == 1:
            ended_by = serve_on_uvloop(_serve(settings, listener, console=console))
            raise typer.Exit(INTERRUPTED if ended_by == signal.SIGINT else DONE)
        _serve_workers(settings, listener, workers, console=console)


async def _check(settings: Settings) -> None:
    async with checked(settings, writes=False):
        pass


def _welcome(out: Output, settings: Settings) -> None:
    """Where it listens and for whom: a sentence for people, an event for logs."""
    url, is_open = http_url(settings.host, settings.port), authorize_for(settings) is None
    if not speaks_to_people(settings):
        log.info("gateway_listening", url=url, access="everybody on this machine" if is_open else "links only")
        return
    out.say(f"tailrace gateway at {url}")
    out.say(
        "nobody is asked who they are: it serves this machine only"
        if is_open
        else "links read one run each; everything else is refused"
    )


async def _serve(settings: Settings, listener: socket.socket, *, console: bool) -> int:
    from processor.client.tailrace import Tailrace

    async with Tailrace(settings=settings) as tail:
        return await Web(config_for(gateway_app(tail, console=console), settings)).on(listener, tail)


def _serve_workers(settings: Settings, listener: socket.socket, workers: int, *, console: bool) -> None:
    """uvicorn's supervisor: it starts each process anew that dies. They are told by the environment."""
    told = {name: getattr(settings, name) for name in ("redis_url", "namespace", "host", "port")}
    os.environ.update({variable_of(name): str(value) for name, value in told.items()})
    os.environ[CONSOLE_VARIABLE] = "1" if console else "0"
    config = config_for("processor.cli.serving:app_of_environment", settings, factory=True, workers=workers)
    Multiprocess(config, sockets=[listener]).run()
