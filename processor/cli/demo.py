"""`tailrace demo`: a real agent, live in the browser; needs nothing else."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

import processor
from processor.cli.exits import DONE, FAILED, INTERRUPTED
from processor.cli.output import Output, output_of
from processor.cli.serving import Web, config_for, gateway_app, serve_on_uvloop
from processor.cli.subscriber import Watched, watch
from processor.cli.up import Place, place, show_page, supervised
from processor.core.settings import variable_of

__all__ = ["demo"]

CUT_AFTER = 12  # increments: well inside the report, however short it is
ONCE_SECONDS = 2.0  # what the agent may take for its telling when nobody watches
ONCE_LIMIT_SECONDS = 60.0


def demo(
    ctx: typer.Context,
    once: Annotated[
        bool, typer.Option("--once", help="Follow one run over HTTP, cut off and resumed, then end.")
    ] = False,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of 8600; 0: a free one.")] = None,
) -> None:
    """A real agent reviews the source code in this folder, live in the browser."""
    out = output_of(ctx)
    if once and port is None:
        port = 0  # nobody has to type its address
    with place(out, "tailrace demo", host=None, port=port, data_dir=None) as here:
        module = _agent(here)
        code = serve_on_uvloop(_once(out, here, module) if once else _stay(out, here, module))
    raise typer.Exit(code)


def _agent(here: Place) -> ModuleType:
    """examples/review.py, whose `tail` reads the environment as any user's does."""
    for name in ("redis_url", "namespace", "host", "port", "data_dir"):
        os.environ[variable_of(name)] = str(getattr(here.settings, name))
    os.environ.pop("REDIS_URL", None)
    package = Path(processor.__file__).parent
    if not (package / "examples").is_dir():  # a source tree: they lie beside the package there, and in it in the wheel
        place = package.parent / "examples"
        spec = importlib.util.spec_from_file_location(
            "processor.examples", place / "__init__.py", submodule_search_locations=[str(place)]
        )
        assert spec is not None
        sys.modules["processor.examples"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("processor.examples.review")


async def _stay(out: Output, here: Place, module: ModuleType) -> int:
    async with supervised(here.server), module.tail as tail:
        web = Web(config_for(gateway_app(tail, console=True), here.settings))
        run = await module.review.start_here(str(Path.cwd()))
        show_page(out, f"{here.url}/#run={run.id}", open_page=True)
        ended_by = await web.on(here.listener, tail)
        if ended_by == signal.SIGINT:
            await tail.close()  # somebody waits at the keyboard: the agent's run ends now, not after the drain
    return INTERRUPTED if ended_by == signal.SIGINT else DONE


async def _once(out: Output, here: Place, module: ModuleType) -> int:
    async with supervised(here.server), module.tail as tail:
        web = Web(config_for(gateway_app(tail, console=True), here.settings))
        serving = asyncio.create_task(web.on(here.listener, tail), name="gateway")
        following = asyncio.create_task(_follow(here, module), name="subscriber")
        await asyncio.wait((serving, following), return_when=asyncio.FIRST_COMPLETED)
        if not following.done():  # a signal ended it
            following.cancel()
            await tail.close()
            return INTERRUPTED if await serving == signal.SIGINT else FAILED
        web.should_exit = True
        await serving
        run, watched, began = following.result()
    return _tell(out, run, watched, began)


async def _follow(here: Place, module: ModuleType) -> tuple[str, Watched, float]:
    """The agent's run as a subscriber sees it, and when it was started."""
    began = time.perf_counter()
    run: Any = await module.review.start_here(str(Path.cwd()), seconds=ONCE_SECONDS)
    async with asyncio.timeout(ONCE_LIMIT_SECONDS):
        watched = await watch(f"{here.url}/api/{here.settings.namespace}", run.id, cut_after=CUT_AFTER)
    return run.id, watched, began


def _tell(out: Output, run: str, watched: Watched, began: float) -> int:
    first = round((watched.first_increment - began) * 1000) if watched.first_increment else -1
    told = {
        "run": run,
        "events": len(watched.seen),
        "first_increment_ms": first,
        "lost": watched.lost,
        "duplicated": watched.duplicated,
    }
    if not watched.complete:
        out.say(f"the run ended as {watched.status}, after {watched.cuts} cut(s) of the subscriber's connection")
    if out.options.json:
        out.record(told)
    else:
        out.raw((" ".join(f"{name}={value}" for name, value in told.items()) + "\n").encode())
    return DONE if watched.complete else FAILED
