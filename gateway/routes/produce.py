"""POST /runs/{run}/events: events of producers that speak HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.auth import Access
from gateway.core.cloudevents import Mode, mode_of, read_binary, read_structured
from gateway.core.ingest import media_of, read_events
from gateway.core.problems import Problem, from_error
from gateway.routes.exchange import Exchange
from processor.core.chain import Outcome
from processor.core.errors import BadName
from processor.core.events import Draft
from processor.core.names import check_producer, check_run
from processor.store.writer import refusal

__all__ = ["Numbers", "numbers_of", "post_events", "refused"]

MAX_NUMBER = 2**53 - 1  # what Lua's doubles hold
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)


class Numbers(NamedTuple):
    """A producer's own chain: the number of the body's first event, and the last one known as accepted."""

    producer: str
    number: int
    prev: int


async def post_events(exchange: Exchange, run: str) -> None:
    """Answered only after the script's reply. What the body alone can be refused for is judged first."""
    check_run(run)
    read = _reader(exchange)
    numbers = numbers_of(
        exchange.headers("tailrace-producer"), exchange.headers("tailrace-number"), exchange.headers("tailrace-prev")
    )
    await exchange.permit(Access("append", run))
    max_event = exchange.gateway.tail.settings.max_event_kib * 1024
    drafts = await _with_tasks(exchange, run, read(await exchange.body(), max_event))
    if numbers is not None and numbers.number + len(drafts) - 1 > MAX_NUMBER:
        raise _bad_number("Tailrace-Number", str(numbers.number), "leaves no number for the body's last event")
    session = await exchange.session()
    outcomes = await session.producer.append_body(run, drafts, **({} if numbers is None else numbers._asdict()))
    index = next((i for i, outcome in enumerate(outcomes) if not outcome.accepted), None)
    if index is not None:
        raise await refused(exchange, run, drafts, outcomes, index)
    last = outcomes[-1]
    tail = last.id if last.word == "appended" else None
    if tail is None:
        state = await exchange.state(run)
        tail = state.tail if state is not None else None
    await exchange.answer_json(200, {"run": run, "tail": tail, "results": _results(outcomes)})


def _reader(exchange: Exchange) -> Callable[[bytes, int], list[Draft]]:
    """What makes events of the body, given the limit of one, as the head says. Raises Problem media-type."""
    types, encodings = exchange.headers("content-type"), exchange.headers("content-encoding")
    mode = mode_of(types, encodings, has_specversion=bool(exchange.headers("ce-specversion")))
    if mode is None:
        media = media_of(types, encodings)
        return lambda body, most: read_events(body, media, max_event=most)
    if mode is Mode.BINARY:
        headers = exchange.headers_from("ce-")
        return lambda body, most: read_binary(headers, types, encodings, body, max_event=most)
    return lambda body, most: read_structured(body, mode, max_event=most)


async def _with_tasks(exchange: Exchange, run: str, drafts: Sequence[Draft]) -> Sequence[Draft]:
    """An answer brings the run's task, in whose stream a parked run goes on; it is fixed when the run is made."""
    if not any(draft.type == "run.resumed" for draft in drafts):
        return drafts
    state = await exchange.state(run)
    task = (state.task if state is not None else None) or ""
    return [
        one._replace(extras=(*one.extras[:2], task), work=task) if one.type == "run.resumed" else one for one in drafts
    ]


def _results(outcomes: Sequence[Outcome]) -> list[dict[str, str | None]]:
    results: list[dict[str, str | None]] = []
    for outcome in outcomes:
        if outcome.accepted:
            results.append({"outcome": outcome.word, "id": outcome.id})
        else:
            results.append({"outcome": "run-exists" if outcome.word == "exists" else outcome.word})
    return results


async def refused(
    exchange: Exchange, run: str, drafts: Sequence[Draft], outcomes: Sequence[Outcome], index: int
) -> Problem:
    """The problem that the first refused event is, with what became of all."""
    outcome = outcomes[index]
    type = drafts[index].type
    if outcome.word == "hole":
        stored = int(outcome.detail or 0)
        problem = Problem("hole", f"The last number stored for this producer is {stored}.", field="Tailrace-Prev")
        problem.extra["stored"] = stored
    else:
        problem = from_error(refusal(run, type, outcome))
    if outcome.word == "full" and outcome.detail == drafts[index].work:
        problem.extra = {"task": outcome.detail}
    if outcome.word == "closed":
        problem.extra["tail"] = outcome.detail.partition(" ")[2]
    problem.extra["index"] = index
    problem.extra["results"] = _results(outcomes)
    return problem


def numbers_of(producers: Sequence[str], numbers: Sequence[str], prevs: Sequence[str]) -> Numbers | None:
    """The headers Tailrace-Producer, -Number and -Prev, each as often as it came; None without any.

    Raises Problem bad-number: repeated, malformed, or alone.
    """
    given = {"Tailrace-Producer": producers, "Tailrace-Number": numbers, "Tailrace-Prev": prevs}
    for name, values in given.items():
        if len(values) > 1:
            raise _bad_number(name, ", ".join(values), "came more than once")
    if not any(given.values()):
        return None
    for name in ("Tailrace-Producer", "Tailrace-Number"):
        if not given[name]:
            raise _bad_number(name, None, "is missing")
    try:
        check_producer(producers[0])
    except BadName as error:
        raise Problem(
            "bad-number", error.message, field="Tailrace-Producer", value=producers[0], remedy=error.remedy
        ) from error
    number = _number("Tailrace-Number", numbers[0], 1, MAX_NUMBER)
    prev = _number("Tailrace-Prev", prevs[0], 0, number - 1) if prevs else number - 1
    return Numbers(producers[0], number, prev)


def _number(name: str, text: str, least: int, most: int) -> int:
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise _bad_number(name, text, f"is no whole number from {least} to {most}")
    return int(text)


def _bad_number(name: str, value: str | None, what: str) -> Problem:
    return Problem(
        "bad-number",
        f"{name} {what}.",
        field=name,
        value=value,
        remedy="Send Tailrace-Producer and Tailrace-Number together, once each, the number in plain digits, "
        "and Tailrace-Prev only below it.",
    )
