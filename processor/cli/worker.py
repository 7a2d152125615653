"""`tailrace worker`: executes the runs of a Tailrace's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer

from processor.cli.children import own_command
from processor.cli.ending import ending
from processor.cli.exits import NoTask, NotLoaded, Usage
from processor.cli.keeper import Keeper, Kept, keep_together
from processor.cli.lacking import tell_lacking
from processor.cli.loading import load_tail, module_of
from processor.cli.metrics_port import serve_metrics
from processor.cli.opening import checked
from processor.cli.options import Options
from processor.cli.output import Output, output_of
from processor.cli.parent import Parent
from processor.cli.serving import serve_on_uvloop
from processor.cli.voice import Voice, speaks_to_people
from processor.core.errors import ServerError
from processor.core.plan import FLOW
from processor.core.settings import Settings, shown_url, variable_of
from processor.observe.logs import configure

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace
    from processor.worker.worker import Worker

__all__ = ["Order", "worker", "worker_command"]

log = structlog.get_logger("tailrace.worker")


def worker(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:TAIL", help="For example shop.tasks:tail")],
    processes: Annotated[int, typer.Option(min=1, max=256, help="So many, kept running.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Executions at once, in each process.")] = 100,
    tasks: Annotated[str | None, typer.Option(help="Only these, by commas: answer,charge")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Anew whenever a file that it imported changes.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing is left to do.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_000, help="For Prometheus, at TAILRACE_HOST; each further process has the next one."
        ),
    ] = None,
) -> None:
    """Execute the runs of a module's tasks, with as many other workers as there are."""
    out = output_of(ctx)
    if burst and reload:
        raise Usage("--burst ends by itself, --reload never.", remedy="Give one of them.", field="--burst")
    _tell_environment(out.options)
    settings = out.options.settings()
    _set_up_logs(settings, verbose=out.options.verbose)
    order = Order(target=target, concurrency=concurrency, tasks=tasks, burst=burst, metrics_port=metrics_port)
    if processes > 1 or reload:
        raise typer.Exit(serve_on_uvloop(_keep(out, settings, order, processes, reload=reload)))
    parent = Parent.of_environment()
    with parent.loading():
        tail = load_tail(target)
    chosen = _chosen(tail, tasks, module_of(target))
    _prepare(tail, chosen)
    raise typer.Exit(serve_on_uvloop(_execute(out, parent, tail, chosen, order)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one process is to do, as it was typed."""

    target: str
    concurrency: int = 100
    tasks: str | None = None
    burst: bool = False
    metrics_port: int | None = None

    @property
    def module(self) -> str:
        return module_of(self.target)

    def of_process(self, number: int) -> Order:
        """Of one of several, counted from 0: each has a port of its own."""
        return replace(self, metrics_port=self.metrics_port + number) if self.metrics_port is not None else self

    def words(self) -> list[str]:
        words = ["worker", self.target, "--concurrency", str(self.concurrency)]
        words += ["--tasks", self.tasks] if self.tasks is not None else []
        words += ["--burst"] if self.burst else []
        words += ["--metrics-port", str(self.metrics_port)] if self.metrics_port is not None else []
        return words


def worker_command(options: Options, order: Order) -> list[str]:
    """The same in a process of its own, one of those that are kept."""
    flags = {"--json": options.json, "--no-color": not options.color, "-q": options.quiet, "-v": options.verbose}
    return own_command(*(flag for flag, given in flags.items() if given), *order.words())


def _set_up_logs(settings: Settings, *, verbose: bool) -> None:
    """At a terminal without what only matters where there are several workers."""
    quiet = {} if verbose or not speaks_to_people(settings) else {"tailrace.singletons": "WARNING"}
    configure(settings.log, level="DEBUG" if verbose else "INFO", levels=quiet)


def _tell_environment(options: Options) -> None:
    """The module reads the environment by itself, and so do the processes that are kept."""
    for name, value in (("redis_url", options.redis_url), ("namespace", options.namespace)):
        if value is not None:
            os.environ[variable_of(name)] = value
    if not options.color:
        os.environ["NO_COLOR"] = "1"


async def _keep(out: Output, settings: Settings, order: Order, processes: int, *, reload: bool) -> int:
    """The supervisor of --processes and --reload. Its processes have consumer names of their own, each a new one."""
    voice = Voice(out, settings, "tailrace.worker", "worker")
    kept = Kept(command=(), reload=reload, once=order.burst, drain_seconds=settings.drain_seconds)
    commands = [worker_command(out.options, order.of_process(number)) for number in range(processes)]
    keepers = [Keeper(replace(kept, command=command), voice) for command in commands]

    def stop(number: int) -> None:
        for keeper in keepers:
            keeper.stop(number)

    loop = asyncio.get_running_loop()
    with ending(lambda number: loop.call_soon_threadsafe(stop, number), patience=2) as end:
        code = await keep_together(keepers)
    return end.code if end.by else code


def _chosen(tail: Tailrace, tasks: str | None, module: str) -> list[str]:
    """The tasks that this worker takes. Raises NoTask, Usage."""
    if not tail.tasks:
        raise NoTask(
            f"this worker has no task at all: it imported {', '.join([module, *tail.imports])} and found none.",
            remedy=f'A task exists once its module is imported: Tailrace(imports=["{module}_more"]), '
            "or name the module that has them.",
        )
    if tasks is None:
        return sorted(tail.tasks)
    wanted = [name.strip() for name in tasks.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(tail.tasks))
    if unknown or not wanted:
        raise Usage(
            f"--tasks names {', '.join(unknown)}, which {module} does not have." if unknown else "--tasks names none.",
            remedy=f"It has: {', '.join(sorted(tail.tasks))}.",
            field="--tasks",
            value=tasks,
        )
    return sorted(set(wanted))


def _prepare(tail: Tailrace, tasks: Collection[str]) -> None:
    """What takes time when first needed, and what is wrong with a task, before it fails a run. Raises NotLoaded, SettingsError."""
    for name in tasks:
        try:
            tail.tasks[name].prepare()
        except (TypeError, NameError) as error:
            raise NotLoaded(f"task {name} cannot be executed: {error}.", remedy="Mend its parameters.") from error


async def _execute(out: Output, parent: Parent, tail: Tailrace, tasks: Collection[str], order: Order) -> int:
    from gateway.collector import calm_collector
    from processor.worker.worker import Worker

    async with checked(tail.settings, writes=True):
        pass  # its words name where the address came from
    voice = Voice(out, tail.settings, "tailrace.worker")
    worker = Worker(tail, concurrency=order.concurrency, tasks=list(tasks))
    loop = asyncio.get_running_loop()
    patience = None if parent.is_there else 1
    with ending(lambda _: loop.call_soon_threadsafe(worker.stop), patience=patience) as end:
        async with tail:
            _welcome(voice, tail.settings, worker, order.module, is_kept=parent.is_there)
            parent.ready()
            beside = [parent.keep_telling()]
            if not order.burst:
                beside.append(tell_lacking(out, worker, [order.module, *tail.imports], people=voice.to_people))
            if order.metrics_port is not None:
                beside.append(serve_metrics(tail.settings.host, order.metrics_port))
            calm_collector()  # looking through what was imported takes a sixth of an execution
            async with _beside(*beside):
                try:
                    await worker.run(burst=order.burst)
                except ServerError as error:  # while it opens
                    if not end.by:
                        raise
                    log.info("never_opened", error=error.code)
    return end.code


@asynccontextmanager
async def _beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """They go on while the block does. What one of them raised comes out behind it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _welcome(voice: Voice, settings: Settings, worker: Worker, module: str, *, is_kept: bool) -> None:
    """Its tasks, before it takes the first run. is_kept: who keeps it says the rest."""
    server, names = shown_url(settings.redis_url or ""), sorted(worker.tasks.keys() - {FLOW})
    sentence = f"{module} has {', '.join(names)}"
    if not is_kept:
        sentence += (
            f"; up to {worker.concurrency} at once, from {server}\n"
            f"Ctrl-C lets what runs finish, {settings.drain_seconds:g} s at most; a second one ends it at once"
        )
    told = {"tasks": names, "consumer": worker.consumer, "concurrency": worker.concurrency, "server": server}
    voice("worker_ready", sentence, **told)
