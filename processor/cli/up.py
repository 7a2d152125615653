"""`tailrace up`, for development: a server if none is set, the gateway with its console, a worker and the user's web app."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from processor.cli.exits import DONE, INTERRUPTED
from processor.cli.opening import checked
from processor.cli.output import Output, output_of
from processor.cli.parts import Parts
from processor.cli.ports import http_url, listen, listen_from, port_of
from processor.cli.serving import Web, authorize_for, config_for, gateway_app, serve_on_uvloop
from processor.core.settings import Settings, shown_url
from processor.observe.logs import configure
from processor.store.embedded import EmbeddedServer, FolderInUse, link_key

__all__ = ["Place", "place", "show_page", "supervised", "up"]


def up(
    ctx: typer.Context,
    target: Annotated[
        str | None, typer.Argument(metavar="MODULE:TAIL", help="Its tasks get a worker: shop.tasks:tail")
    ] = None,
    web: Annotated[str | None, typer.Option(metavar="MODULE:APP", help="Your web app: shop.web:app")] = None,
    host: Annotated[str | None, typer.Option(help="Instead of TAILRACE_HOST (127.0.0.1).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Instead of TAILRACE_PORT (8600); 0: a free one.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Instead of TAILRACE_DATA_DIR (.tailrace).")] = None,
    no_reload: Annotated[
        bool, typer.Option("--no-reload", help="Worker and web app stay as they are when files change.")
    ] = False,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the console's address, open no browser.")] = False,
) -> None:
    """Development: a server if none is set, gateway, console, worker and your web app. Others find it by .tailrace/."""
    out = output_of(ctx)
    with place(out, "tailrace up", host=host, port=port, data_dir=data_dir) as here, web_place(here, web) as listener:
        parts = Parts(out, here.settings, target, web, listener, reload=not no_reload)
        ended_by = serve_on_uvloop(_up(out, here, parts, open_page=not no_open))
    raise typer.Exit(INTERRUPTED if ended_by == signal.SIGINT else DONE)


@contextmanager
def web_place(here: Place, web: str | None) -> Iterator[socket.socket | None]:
    """The socket of the user's web app, on the next free port, and what the gateway must know of it. Raises PortTaken."""
    if web is None:
        yield None
        return
    with listen_from(here.settings.host, here.settings.port + 1, "tailrace up") as listener:
        origins = (
            *here.settings.cors_origins,
            *(f"http://{name}:{port_of(listener)}" for name in ("127.0.0.1", "localhost")),
        )
        here.settings = here.settings.changed("--web", cors_origins=origins)
        yield listener


class Place:
    """What `up` and `demo` stand on: settings with a server, the socket that listens, the server if it is ours."""

    def __init__(self, settings: Settings, listener: socket.socket, server: EmbeddedServer | None) -> None:
        self.settings, self.listener, self.server = settings, listener, server

    @property
    def url(self) -> str:
        return http_url(self.settings.host, self.settings.port)


@contextmanager
def place(out: Output, command: str, *, host: str | None, port: int | None, data_dir: Path | None) -> Iterator[Place]:
    """Everything that must be there before a loop runs. The server starts here, in the main thread.

    Raises PortTaken, SettingsError, ServerError.
    """
    settings = out.options.settings()
    for name, value in (("host", host), ("port", port), ("data_dir", data_dir and data_dir.absolute())):
        if value is not None:
            settings = settings.changed(f"--{name.replace('_', '-')}", **{name: value})
    if settings.jwt_key is None and settings.jwks_url is None:
        settings = settings.changed(str(settings.data_dir / "key"), jwt_key=link_key(settings.data_dir))
    authorize_for(settings)
    configure(settings.log, level="INFO" if out.options.verbose else "WARNING")
    with listen(settings.host, settings.port, command) as listener:
        settings = settings.changed("--port", port=port_of(listener))
        with _server(out, settings) as (settings, server):
            here = Place(settings, listener, server)
            if server is not None:
                server.tell_gateway(settings.public_url or here.url)
            yield here


@contextmanager
def _server(out: Output, settings: Settings) -> Iterator[tuple[Settings, EmbeddedServer | None]]:
    if settings.redis_url is not None:
        out.say(f"server    {shown_url(settings.redis_url)}, from {settings.origin('redis_url')}")
        asyncio.run(_check(settings))
        yield settings, None
        return
    server = EmbeddedServer(settings.data_dir)
    try:
        server.start()
    except FolderInUse:  # another `up` took the folder between our look at its server.json and now
        yield _other(out, settings), None
        return
    with server:
        out.say(f"server    Valkey in {_short(settings.data_dir)}")
        yield settings.changed(str(server.folder / "server.json"), redis_url=server.url), server


def _other(out: Output, settings: Settings) -> Settings:
    found = Settings.from_env(os.environ, folder=settings.data_dir.parent)
    if found.redis_url is None:
        raise FolderInUse(
            f"a server runs on {settings.data_dir} and has not said where it answers.",
            remedy="Try again, or take another folder: tailrace up --data-dir .tailrace-2",
        )
    out.say(f"server    the one of another `tailrace up` in {_short(settings.data_dir)}")
    return settings.changed(found.origin("redis_url"), redis_url=found.redis_url)


async def _check(settings: Settings) -> None:
    async with checked(settings, writes=True):
        pass


@asynccontextmanager
async def supervised(server: EmbeddedServer | None) -> AsyncIterator[None]:
    """The embedded server is looked after while the block runs."""
    if server is None:
        yield
        return
    watch = asyncio.create_task(server.supervise(), name="embedded-server")
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _up(out: Output, here: Place, parts: Parts, *, open_page: bool) -> int:
    from processor.client.tailrace import Tailrace

    async with supervised(here.server), Tailrace(settings=here.settings) as tail:
        web = Web(config_for(gateway_app(tail, console=True), here.settings))
        show_page(out, here.url, web=parts.url, open_page=open_page)
        async with parts.running() as stop:
            web.on_end = stop
            return await web.on(here.listener, tail)


def show_page(out: Output, url: str, *, open_page: bool, web: str | None = None) -> None:
    """Print the console's address and the web app's; open the console where somebody sits in front of a display."""
    if out.pretty:
        out.line(f"console   {url}")
        if web is not None:
            out.line(f"web       {web}")
        out.say("Ctrl-C ends it")
    else:
        out.record({"url": url} if web is None else {"url": url, "web": web})
    if open_page and out.pretty and has_display():
        webbrowser.open(url)


def has_display() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _short(folder: Path) -> str:
    """Relative to the present folder where that is shorter."""
    try:
        return f"{folder.relative_to(Path.cwd())}/"
    except ValueError:
        return str(folder)
