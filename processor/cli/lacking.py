"""Tasks that runs wait for, and groups that events wait for, which no worker has: what a worker says of them while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from socket import gethostname
from typing import TYPE_CHECKING, Final

import structlog

from processor.cli.exits import NoGroup, NoTask
from processor.cli.output import Output
from processor.core.ago import ago
from processor.core.errors import ServerError
from processor.core.worker import Workers
from processor.store.connection import speaking_of
from processor.store.lag import Queued, read_queued
from processor.store.standings import Standing, read_groups
from processor.store.workers import list_workers

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["lacking", "no_group", "no_task", "tell_lacking", "tells"]

log = structlog.get_logger("tailrace.worker")
FIRST_LOOK_SECONDS: Final = 1.0  # those that began with it have announced themselves by then
LOOK_SECONDS: Final = 60.0  # each costs about what a long listing of runs costs


def lacking(workers: Workers, queued: Sequence[Queued], tasks: Collection[str]) -> list[Queued]:
    """Tasks that runs wait for, neither among these nor among those of a worker that lives."""
    return [one for one in queued if one.task not in tasks and not workers.that_have(one.task)]


def tells(workers: Workers, worker: Worker) -> bool:
    """Whether it is for this one to tell of them: of several alike on a machine one does."""
    has = (set(worker.tasks), set(worker.groups))
    alike = (one for one in workers.alive if one.host == gethostname() and (set(one.tasks), set(one.groups)) == has)
    return worker.consumer == min((one.consumer for one in alike), default=worker.consumer)


def no_task(queued: Queued, modules: Sequence[str], found: Collection[str]) -> NoTask:
    """modules: what this worker imported. found: the tasks in them, also those that --tasks leaves to others."""
    runs = f"{queued.runs} runs wait" if queued.runs != 1 else "1 run waits"
    waits = f'{runs} for task "{queued.task}" (oldest {ago(queued.oldest_ms / 1000)}), which'
    if queued.task in found:
        return NoTask(
            f"{waits} --tasks leaves to other workers, and none that has it is alive.",
            remedy="Start one that has it, or name it in --tasks too.",
        )
    remedy = (
        "A task exists once its module is imported: add the one that has it to Tailrace(imports=[…]), "
        "or start a worker for it: tailrace worker MODULE:TAIL"
    )
    for near in get_close_matches(queued.task, found, n=1):
        listing = f"tailrace runs --task {queued.task}"
        remedy = f"Perhaps {near} was meant: `{listing}` lists them, `tailrace cancel` ends them.   Else: {remedy}"
    return NoTask(
        f"{waits} this worker does not have. It imported {', '.join(modules)} and found: {', '.join(sorted(found)) or 'none'}.",
        remedy=remedy,
    )


def no_group(standing: Standing, found: Collection[str]) -> NoGroup:
    """found: the groups of the modules that this worker imported, also those that --groups leaves to others."""
    name, waiting = standing.group.name, standing.backlog
    events = f"{waiting} events wait" if waiting != 1 else "1 event waits"
    waits = f'{events} for group "{name}" (oldest {ago(standing.oldest_ms / 1000)}), which no live worker has'
    if name in found:
        return NoGroup(
            f"{waits}; --tasks or --groups leaves it to other workers.",
            remedy=f"Start one that has it, or name it in --groups: --groups {name}",
        )
    return NoGroup(
        f"{waits}.",
        remedy="Start a worker whose module has its reactions: tailrace worker MODULE:TAIL   "
        f"Or, if nobody needs it any more: tailrace groups delete {name}",
    )


async def tell_lacking(out: Output, worker: Worker, modules: Sequence[str], *, people: bool) -> None:
    """Looks now and then, until cancelled, and warns of each such task or group when it appears. people: in a sentence."""
    known: set[str] = set()
    known_groups: set[str] = set()
    session = await worker.tail.session()
    await asyncio.sleep(FIRST_LOOK_SECONDS)
    while True:
        try:
            with speaking_of(session.server.address.url):
                now: list[Queued] = []
                unattended: list[Standing] = []
                if tells(await list_workers(session), worker):
                    now = lacking(*await read_queued(session), worker.tasks)
                    groups = (await read_groups(session)).all
                    unattended = [one for one in groups if one.unattended and one.group.name not in worker.groups]
        except ServerError as error:
            log.debug("lacking_unknown", error=error.code)  # the worker itself tells that the server is away
        else:
            for queued in now:
                if queued.task not in known:
                    _warn(out, queued, modules, worker.tail.tasks, people)
            for standing in unattended:
                if standing.group.name not in known_groups:
                    _warn_of_group(out, standing, worker.tail.reactions, people)
            known = {queued.task for queued in now}
            known_groups = {standing.group.name for standing in unattended}
        await asyncio.sleep(LOOK_SECONDS)


def _warn(out: Output, queued: Queued, modules: Sequence[str], found: Collection[str], people: bool) -> None:
    if people:
        out.warning(no_task(queued, modules, found))
        return
    seconds = round(queued.oldest_ms / 1000)
    told = {"task": queued.task, "runs": queued.runs, "oldest_seconds": seconds, "imported": list(modules)}
    log.warning("no_task", **told, found=sorted(found))


def _warn_of_group(out: Output, standing: Standing, found: Collection[str], people: bool) -> None:
    if people:
        out.warning(no_group(standing, found))
        return
    seconds = round(standing.oldest_ms / 1000)
    log.warning("no_group", group=standing.group.name, events=standing.backlog, oldest_seconds=seconds)
