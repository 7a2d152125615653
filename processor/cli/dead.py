"""`tailrace dead list|show|requeue|purge`: runs that failed for good, and events that a group could not handle."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from processor.cli.confirm import confirm
from processor.cli.exits import DONE, FULL, REFUSED, AmbiguousRun, Usage
from processor.cli.opening import opened, reading, wait_for
from processor.cli.options import EPILOG
from processor.cli.output import Output, output_of
from processor.cli.words import clock, parse_time, took
from processor.core.ago import ago
from processor.core.errors import RunNotFound
from processor.core.json import dumps
from processor.store import dead as store
from processor.store.connection import speaking_of
from processor.store.dead import DeadLetter, Place, Requeued, Wanted
from processor.store.space import Space

__all__ = ["dead"]

dead = typer.Typer(
    help="Dead letters: runs that failed for good and events that a group could not handle, to look into and to give back.",
    no_args_is_help=True,
)

SHOWN_ERROR = 100  # characters of an error in a list; all of it is in `show`
AT_ONCE = 200  # letters read, run again and told

Name = Annotated[str | None, typer.Argument(metavar="[TASK|GROUP]", help="Only of this task or group.")]
OfTask = Annotated[bool, typer.Option("--task", help="The name is a task's, not a group's.")]
OfGroup = Annotated[bool, typer.Option("--group", help="The name is a group's, not a task's.")]
Error = Annotated[str | None, typer.Option(help="Only whose error is like this: 'Timeout*'.")]
Since = Annotated[str | None, typer.Option(help="Dead since: 10m, 14:05, 2026-11-24T14:05Z.")]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", help="Of this run, or its beginning or end; RUN@SEQ: of one event. May be repeated."),
]
RUN_HELP = "ID, or its beginning or end; RUN@SEQ for one event of a group, INLET@ENTRY for an entry of an inlet."


@dead.command("list", epilog=EPILOG)
def list_(
    ctx: typer.Context,
    name: Name = None,
    error: Error = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    all: Annotated[bool, typer.Option("--all", help="However many there are.")] = False,
    task: OfTask = False,
    group: OfGroup = False,
) -> None:
    """Dead letters, newest first."""
    wait_for(_list(output_of(ctx), _wanted(name, task, group, error, since), None if all else limit))


@dead.command(epilog=EPILOG)
def show(ctx: typer.Context, run: Annotated[str, typer.Argument(help=RUN_HELP)]) -> None:
    """Error, traceback, attempts and origin of one run's, newest first."""
    wait_for(_show(output_of(ctx), run))


@dead.command(epilog=EPILOG)
def requeue(
    ctx: typer.Context,
    name: Name = None,
    error: Error = None,
    since: Since = None,
    run: Runs = None,
    all: Annotated[bool, typer.Option("--all", help="Every one.")] = False,
    task: OfTask = False,
    group: OfGroup = False,
) -> None:
    """Give them back, oldest first: a task's run begins anew with the same input, an event goes to its group once more."""
    named = _named(name, error, since, run, all)
    raise typer.Exit(wait_for(_requeue(output_of(ctx), _wanted(name, task, group, error, since), named)))


@dead.command(epilog=EPILOG)
def purge(
    ctx: typer.Context,
    name: Name = None,
    error: Error = None,
    since: Since = None,
    run: Runs = None,
    all: Annotated[bool, typer.Option("--all", help="Every one.")] = False,
    task: OfTask = False,
    group: OfGroup = False,
) -> None:
    """Delete them for good. Asks first."""
    named, out = _named(name, error, since, run, all), output_of(ctx)
    places = wait_for(_collect(out, _wanted(name, task, group, error, since), named))
    if places:
        of = f" of {name}" if name is not None else ""
        confirm(out, f"Delete {_letters(len(places))}{of} for good?")
    else:
        out.say("no such dead letters; `tailrace dead list` has those there are")
    deleted = wait_for(_purge(out, places)) if places else 0
    if out.pretty:
        out.line(f"{_letters(deleted)} deleted")
    else:
        out.record({"purged": deleted})


# What is meant.


def _wanted(name: str | None, task: bool, group: bool, error: str | None, since: str | None) -> Wanted:
    """Raises Usage."""
    if name is None and (task or group):
        raise Usage(f"--{'task' if task else 'group'} without a name.", remedy="Say which one.")
    if task and group:
        raise Usage("--task and --group.", remedy="Give one of them; without either the name may be both.")
    moment = parse_time(since, datetime.now(UTC), field="--since") if since is not None else None
    return Wanted(
        task=None if group else name,
        group=None if task else name,
        error=error,
        since_ms=int(moment.timestamp() * 1000) if moment else 0,
    )


async def _check_plain(space: Space, wanted: Wanted) -> None:
    """What changes letters takes no name that means both a task and a group. Raises Usage."""
    if wanted.task is None or wanted.group is None:
        return
    if len(await store.kinds_of(space, wanted.task)) > 1:
        raise Usage(
            f"there are dead letters of a task {wanted.task!r} and of a group {wanted.task!r}.",
            remedy="Say which are meant: --task or --group.",
            value=wanted.task,
        )


def _named(
    name: str | None, error: str | None, since: str | None, runs: Sequence[str] | None, all: bool
) -> Sequence[str]:
    """The runs that were named. Raises Usage unless it is said which letters are meant, in one way."""
    filters = [value for value in (error, since) if value is not None]
    if name is None and not filters and not runs and not all:
        raise Usage(
            "which dead letters?", remedy="Give a task or a group, --error, --since or --run; --all means every one."
        )
    if runs and (filters or all):
        raise Usage("--run names letters by itself.", remedy="Leave --error, --since and --all away.")
    return runs or ()


async def _find(space: Space, text: str, wanted: Wanted) -> list[DeadLetter]:
    """All of one run, newest first. Raises RunNotFound, AmbiguousRun."""
    found = await store.find(space, text, wanted)
    if not found:
        raise RunNotFound(
            f"there is no dead letter of a run {text!r} in namespace {space.keys.namespace}.",
            remedy="`tailrace dead list --all` lists them; `tailrace show` tells of any run.",
            run=text,
        )
    runs = list(dict.fromkeys(letter.run for letter in found))
    if len(runs) > 1:
        raise AmbiguousRun(
            f"dead letters of several runs begin or end with {text!r}: {', '.join(runs)}.",
            remedy="Give more of the ID.",
            field="run",
            value=text,
        )
    return found


async def _places(space: Space, wanted: Wanted, runs: Sequence[str]) -> list[Place]:
    """Where the letters stand that are meant, oldest first: those that die from here on are not among them."""
    await _check_plain(space, wanted)
    if runs:
        return [letter.place for text in runs for letter in (await _find(space, text, wanted))[::-1]]
    return [letter.place async for letter in store.letters(space, wanted)][::-1]


async def _collect(out: Output, wanted: Wanted, runs: Sequence[str]) -> list[Place]:
    async with reading(out.options) as space:
        return await _places(space, wanted, runs)


# What is done.


async def _list(out: Output, wanted: Wanted, limit: int | None) -> None:
    async with reading(out.options) as space:
        found: list[DeadLetter] = []
        more = False
        async for letter in store.letters(space, wanted):
            if len(found) == limit:
                more = True
                break
            found.append(letter)
            if not out.pretty:
                out.record(letter.json())
    if not out.pretty:
        return
    now = datetime.now(UTC)
    whose = "TASK OR GROUP" if any(letter.group for letter in found) else "TASK"
    out.table(("RUN", whose, "DEAD", "ATTEMPTS", "ERROR"), [_row(letter, now) for letter in found])
    if more:
        out.say(f"the newest {limit}; --all lists every one")
    if not found:
        out.say(
            "no dead letters" if wanted == Wanted() else "no such dead letters; `tailrace dead list` has all of them"
        )


def _row(letter: DeadLetter, now: datetime) -> list[str | Text]:
    error = letter.error.partition("\n")[0] or letter.reason
    return [
        letter.label,
        letter.place.name,
        f"{ago(now.timestamp() - letter.died / 1000)} ago",
        str(letter.attempts),
        error if len(error) <= SHOWN_ERROR else f"{error[:SHOWN_ERROR]}…",
    ]


async def _show(out: Output, text: str) -> None:
    async with reading(out.options) as space:
        found = await _find(space, text, Wanted())
        (thread,) = await store.threads(space, [found[0].run]) if found[0].run else [None]
    for number, letter in enumerate(found):
        if not out.pretty:
            out.record(letter.whole_json(thread))
            continue
        if number:
            out.line()
        _describe(out, letter, thread)


def _describe(out: Output, letter: DeadLetter, thread: str | None) -> None:
    now = datetime.now(UTC)
    age = ago(now.timestamp() - letter.died / 1000)
    out.line(Text.assemble((letter.label, "bold"), "  ", ("dead", "red"), f" {age} ago"))
    lived = f" (after {took((letter.died - letter.began) / 1000)})" if letter.began is not None else ""
    began = _clock(letter.began, now) if letter.began is not None else ""
    lines = {
        "task": letter.task,
        "group": letter.group,
        "event": f"{letter.type} ({letter.queued})" if letter.group and letter.queued else "",
        "entry": letter.entry,
        "fields": " ".join(f"{name}={value}" for name, value in letter.fields.items()),
        "thread": thread or "",
        "labels": " ".join(f"{name}={value}" for name, value in letter.labels.items()),
        "data" if letter.group else "input": "" if letter.entry else _cause(letter),
        "happened" if letter.group else "queued": began,
        "dead": f"{_clock(letter.died, now)}{lived}",
        "attempts": str(letter.attempts),
        "reason": letter.reason,
        "error": letter.error.replace("\n", "\n" + " " * 12),
    }
    for name, value in lines.items():
        if value:
            out.line(Text.assemble((f"  {name:<10}", "bright_black"), value))
    if letter.traceback:
        out.line()
        out.line("  " + letter.traceback.rstrip("\n").replace("\n", "\n  "))
    if letter.entry:
        out.say("An inlet's: mend its function, then add the entry to its stream again.")
        return
    again = f"give it to {letter.group} again" if letter.group else "run it again"
    out.say(f"To {again}: tailrace dead requeue --run {letter.label}")


def _cause(letter: DeadLetter) -> str:
    if not letter.payload:
        return "lost"
    return dumps(letter.data if letter.group else letter.input).decode()


def _clock(ms: int, now: datetime) -> str:
    return clock(datetime.fromtimestamp(ms / 1000, UTC), now)


async def _requeue(out: Output, wanted: Wanted, runs: Sequence[str]) -> int:
    """Its exit code: that of the worst refusal."""
    words: list[str] = []
    async with opened(out.options) as tail:
        session = await tail.session()
        with speaking_of(session.server.address.url):
            places = await _places(session, wanted, runs)
            for first in range(0, len(places), AT_ONCE):
                found = await store.read(session, places[first : first + AT_ONCE])
                for answer in await store.requeue(session, [letter for letter in found if letter is not None]):
                    _tell(out, answer)
                    words.append(answer.word)
    done = words.count("requeued")
    stay = len(words) - done - words.count("gone")
    out.say(f"{_letters(done)} requeued" + (f", {stay} could not be and stay" if stay else _none_fits(places)))
    return FULL if "full" in words else REFUSED if stay else DONE


def _tell(out: Output, answer: Requeued) -> None:
    letter = answer.letter
    if not out.pretty:
        refused = {} if answer.word == "requeued" else {"refused": answer.word, "by": answer.detail or None}
        of = {"group": letter.group, "event": letter.queued} if letter.group else {"task": letter.task}
        out.record(
            {"run": letter.run, **of, "requeued": answer.run or None}
            | {name: value for name, value in refused.items() if value}
        )
    elif answer.word == "requeued":
        out.line(f"{letter.label} → {f'group {letter.group}' if letter.group else answer.run}")
    else:
        out.line(Text.assemble(f"{letter.label}  ", (_why(answer), "yellow")))


def _why(answer: Requeued) -> str:
    reasons = {
        "gone": "was requeued or deleted by somebody else meanwhile",
        "busy": f"stays: its thread is busy with {answer.detail}",
        "full": f"stays: {answer.detail} has too much waiting already",
        "lost": _why_lost(answer.letter),
        "unbound": f"stays: there is no group {answer.letter.group} any more; a worker with its reactions makes it anew",
    }
    return reasons.get(answer.word, f"stays: {answer.word}")


def _why_lost(letter: DeadLetter) -> str:
    if letter.entry:
        return f"stays: mend inlet {letter.group}, then add entry {letter.entry} to its stream again"
    return f"stays: {'its event' if letter.group else 'what it was started with'} is lost"


async def _purge(out: Output, places: Sequence[Place]) -> int:
    async with opened(out.options) as tail:
        session = await tail.session()
        with speaking_of(session.server.address.url):
            return await store.purge(session, places)


def _none_fits(places: Sequence[Place]) -> str:
    return "" if places else ": none is so; `tailrace dead list` has those there are"


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
