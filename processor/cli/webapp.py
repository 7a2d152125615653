"""The user's web app as a process of `tailrace up`: on a socket that is open already, with the gateway's protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn

from processor.cli.exits import DONE, FAILED, INTERRUPTED, exit_code
from processor.cli.loading import load_app
from processor.cli.options import Options
from processor.cli.output import Output
from processor.cli.parent import Parent
from processor.cli.serving import PROTOCOL, Web, grace_seconds, serve_on_uvloop
from processor.core.errors import TailraceError
from processor.core.settings import Settings
from processor.observe.logs import configure

__all__ = ["main", "web_command_words"]


def web_command_words(target: str, listener: socket.socket) -> list[str]:
    """What follows this module's name: the application, and the number of the socket that is passed on."""
    return [target, str(listener.fileno())]


class _App(Web):
    """Says when its lifespan has begun."""

    def __init__(self, config: uvicorn.Config, parent: Parent) -> None:
        super().__init__(config)
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._parent.ready()


def main(words: list[str] | None = None) -> int:
    """Its exit code."""
    target, fd = sys.argv[1:] if words is None else words
    out = Output(Options())
    parent = Parent.of_environment()
    try:
        settings = Settings.from_env(os.environ, folder=Path.cwd())
        configure(settings.log, level="INFO", levels={"uvicorn.error": "WARNING"})  # of a reload its keeper tells
        with parent.loading():
            app = load_app(target)
    except TailraceError as error:
        out.error(error)
        return exit_code(error)
    web = _App(_config(app, settings), parent)
    with socket.socket(fileno=int(fd)) as listener:
        listener.set_inheritable(False)
        serve_on_uvloop(_serve(web, parent, listener))
    if not web.started:
        return FAILED  # its lifespan did not begin, and uvicorn has said why
    return INTERRUPTED if web.ended_by == signal.SIGINT else DONE


def _config(app: Any, settings: Settings) -> uvicorn.Config:
    """As `uvicorn MODULE:APP` serves it, but for the protocol, which writes frames straight to the connection."""
    return uvicorn.Config(
        app,
        http=PROTOCOL,
        loop="uvloop",
        log_config=None,
        timeout_graceful_shutdown=grace_seconds(settings),
    )


async def _serve(web: _App, parent: Parent, listener: socket.socket) -> None:
    telling = asyncio.create_task(parent.keep_telling())
    try:
        await web.serve(sockets=[listener])
    finally:
        telling.cancel()


if __name__ == "__main__":
    sys.exit(main())
