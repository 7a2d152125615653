"""`tailrace worker`: executes the runs of a Tailrace's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
    from processor.client.reaction import Reaction
    from processor.client.tailrace import Tailrace
    from processor.client.task import Task
    from processor.worker.worker import Worker

__all__ = ["Order", "worker", "worker_command"]

log = structlog.get_logger("tailrace.worker")


def worker(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="MODULE:TAIL", help="For example shop.tasks:tail")],
    processes: Annotated[int, typer.Option(min=1, max=256, help="So many, kept running.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Executions at once, in each process.")] = 100,
    tasks: Annotated[str | None, typer.Option(help="Only these, by commas: answer,charge; and no reactions")] = None,
    groups: Annotated[str | None, typer.Option(help="Only these groups' reactions, by commas; and no tasks")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Anew whenever a file that it imported changes.")] = False,
    burst: Annotated[bool, typer.Option("--burst", help="End when nothing is left to do.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65_000, help="For Prometheus, at TAILRACE_HOST; each further process has the next one."
        ),
    ] = None,
) -> None:
    """Execute the runs of a module's tasks and run its reactions, with as many other workers as there are."""
    out = output_of(ctx)
    if burst and reload:
        raise Usage("--burst ends by itself, --reload never.", remedy="Give one of them.", field="--burst")
    _tell_environment(out.options)
    settings = out.options.settings()
    _set_up_logs(settings, verbose=out.options.verbose)
    order = Order(
        target=target, concurrency=concurrency, tasks=tasks, groups=groups, burst=burst, metrics_port=metrics_port
    )
    if processes > 1 or reload:
        raise typer.Exit(serve_on_uvloop(_keep(out, settings, order, processes, reload=reload)))
    parent = Parent.of_environment()
    with parent.loading():
        tail = load_tail(target)
    chosen = _chosen(tail, order)
    _prepare(tail, chosen)
    raise typer.Exit(serve_on_uvloop(_execute(out, parent, tail, chosen, order)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one process is to do, as it was typed."""

    target: str
    concurrency: int = 100
    tasks: str | None = None
    groups: str | None = None
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
        words += ["--groups", self.groups] if self.groups is not None else []
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


class Chosen(NamedTuple):
    """What this worker takes."""

    tasks: list[str]
    groups: list[str]


def _chosen(tail: Tailrace, order: Order) -> Chosen:
    """Who names tasks alone wants no groups, and the other way round. Raises NoTask, Usage."""
    if not tail.tasks and not tail.reactions and not tail.inlets:
        raise NoTask(
            f"this worker has nothing to do: it imported {', '.join([order.module, *tail.imports])} and found no task, "
            "reaction or inlet.",
            remedy=f'They exist once their module is imported: Tailrace(imports=["{order.module}_more"]), '
            "or name the module that has them.",
        )
    if order.tasks is None and order.groups is None:
        return Chosen(sorted(tail.tasks), sorted(tail.reactions))
    return Chosen(
        _named("--tasks", order.tasks, tail.tasks, order.module) if order.tasks is not None else [],
        _named("--groups", order.groups, tail.reactions, order.module) if order.groups is not None else [],
    )


def _named(option: str, given: str, known: Collection[str], module: str) -> list[str]:
    wanted = {name.strip() for name in given.split(",") if name.strip()}
    unknown = sorted(wanted - set(known))
    if unknown or not wanted:
        raise Usage(
            f"{option} names {', '.join(unknown)}, which {module} does not have."
            if unknown
            else f"{option} names none.",
            remedy=f"It has: {', '.join(sorted(known))}." if known else f"It has none: leave {option} out.",
            field=option,
            value=given,
        )
    return sorted(wanted)


def _prepare(tail: Tailrace, chosen: Chosen) -> None:
    """What takes time when first needed, and what is wrong with a function, before it fails a run. Raises NotLoaded,
    SettingsError."""
    functions: list[tuple[str, Task[..., Any] | Reaction]] = [
        (f"task {name}", tail.tasks[name]) for name in chosen.tasks
    ]
    for name in chosen.groups:
        functions += [(f"reaction {one.name}", one) for one in tail.reactions[name].reactions]
    for called, function in functions:
        try:
            function.prepare()
        except (TypeError, NameError) as error:
            raise NotLoaded(f"{called} cannot be executed: {error}.", remedy="Mend its parameters.") from error


async def _execute(out: Output, parent: Parent, tail: Tailrace, chosen: Chosen, order: Order) -> int:
    from gateway.collector import calm_collector
    from processor.worker.worker import Worker

    async with checked(tail.settings, writes=True):
        pass  # its words name where the address came from
    voice = Voice(out, tail.settings, "tailrace.worker")
    worker = Worker(tail, concurrency=order.concurrency, tasks=chosen.tasks, groups=chosen.groups)
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
    """Its tasks, groups and inlets, before it takes the first run. is_kept: who keeps it says the rest."""
    server, names = shown_url(settings.redis_url or ""), sorted(worker.tasks.keys() - {FLOW})
    inlets = worker.tail.inlets
    parts = [f"has {', '.join(names)}"] if names else []
    parts += [f"reacts in {', '.join(sorted(worker.groups))}"] if worker.groups else []
    parts += [f"takes entries of {', '.join(sorted(inlet.stream for inlet in inlets.values()))}"] if inlets else []
    sentence = f"{module} {' and '.join(parts)}"
    if not is_kept:
        sentence += (
            f"; up to {worker.concurrency} at once, from {server}\n"
            f"Ctrl-C lets what runs finish, {settings.drain_seconds:g} s at most; a second one ends it at once"
        )
    told = {
        "tasks": names,
        **({"groups": sorted(worker.groups)} if worker.groups else {}),
        **({"inlets": sorted(inlets)} if inlets else {}),
        "consumer": worker.consumer,
        "concurrency": worker.concurrency,
        "server": server,
    }
    voice("worker_ready", sentence, **told)
