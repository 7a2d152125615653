"""Runs as resources: their state, their list, how they begin, are cancelled and answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from gateway.auth import Access
from gateway.core.ingest import media_of, one_line, read_labels, read_members
from gateway.core.members import Member
from gateway.core.problems import Problem
from gateway.routes.exchange import SERVER_SECONDS, Exchange, known
from gateway.routes.produce import refused
from processor.core.errors import BadInput, BadName
from processor.core.events import draft
from processor.core.json import dumps
from processor.core.lifecycle import TERMINAL
from processor.core.names import check_labels, check_name, check_run, is_text
from processor.core.start import start_hash
from processor.core.ulid import ulid
from processor.store.runs import list_runs

__all__ = ["get_run", "get_runs", "post_cancel", "post_input", "post_run"]

MAX_DELAY_SECONDS = 366 * 86400
_STATUSES = ("queued", "running", "waiting", *sorted(TERMINAL))


async def get_run(exchange: Exchange, run: str) -> None:
    """The run's state."""
    check_run(run)
    await exchange.permit(Access("read", run))
    state = await exchange.known(run)
    await exchange.answer_json(200, state.json())


async def get_runs(exchange: Exchange) -> None:
    """Newest lifecycle change first."""
    limit = exchange.whole("limit", "bad-limit", 50, 1000)
    status = exchange.parameter("status")
    if status is not None and status not in _STATUSES:
        raise _bad_query("status", status, f"Give {', '.join(_STATUSES[:-1])} or {_STATUSES[-1]}.")
    task = exchange.parameter("task")
    if task is not None:
        try:
            check_name(task, "task")
        except BadName as error:
            raise _bad_query("task", task, error.remedy) from error
    labels = _labels(exchange.query.get("label", []))
    after = exchange.parameter("after")
    await exchange.permit(Access("list", labels=labels))
    session = await exchange.session()
    try:
        async with asyncio.timeout(SERVER_SECONDS):
            states, following = await list_runs(
                session, status=status, task=task, labels=labels, after=after, limit=limit
            )
    except BadInput as error:
        raise _bad_query("after", after, error.remedy) from error
    await exchange.answer_json(200, {"runs": [state.json() for state in states], "next": following})


def _labels(texts: list[str]) -> Mapping[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or labels.get(name, value) != value:
            raise _bad_query("label", text, "Give label=name:value, each name once.")
        labels[name] = value
    try:
        check_labels(labels, field="label")
    except BadInput as error:
        raise _bad_query("label", error.value or ", ".join(texts), error.remedy) from error
    return labels


def _bad_query(name: str, value: str | None, remedy: str) -> Problem:
    return Problem("bad-query", f"{name} is {str(value)[:100]!r}.", field=name, value=value, remedy=remedy)


async def post_run(exchange: Exchange) -> None:
    """Starts a run: the same as a first event run.queued."""
    media_of(exchange.headers("content-type"), exchange.headers("content-encoding"))
    members = await _members(exchange, "task", "input", "id", "thread", "labels", "delay_seconds")
    task = check_name(_text(members, "task", required=True), "task")
    thread = _text(members, "thread")
    if thread:
        check_name(thread, "thread")
    asked = _text(members, "id")
    run = _run_of(asked, thread)
    labels = read_labels(members["labels"], "labels") if "labels" in members else {}
    delay = _delay(members.get("delay_seconds"))
    await exchange.permit(Access("start", run if asked else None, thread or None, labels))
    input = members.get("input", Member({}, "{}"))
    if not isinstance(input.value, dict):
        raise Problem(
            "bad-event",
            "input is no object.",
            field="input",
            value=input.text.strip(),
            remedy="Give parameters by name.",
        )
    data = b'{"task":%b,"input":%b' % (dumps(task), one_line(input.text.strip()))
    if delay:
        due = datetime.now(UTC) + timedelta(seconds=delay)
        data += b',"due":%b' % dumps(due.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
    queued = draft(
        "run.queued",
        data + b"}",
        labels=labels,
        task=task,
        start=start_hash(task, input.value),
        thread=thread,
        delay_ms=round(delay * 1000),
    )
    session = await exchange.session()
    outcomes = await session.producer.append_body(run, [queued])
    if not outcomes[0].accepted:
        problem = await refused(exchange, run, [queued], outcomes, 0)
        del problem.extra["index"], problem.extra["results"]
        raise problem
    answer: dict[str, str | None] = {"run": run, "id": outcomes[0].id}
    link = _link(exchange, run)
    if link is not None:
        answer["link"] = link
    location = f"{exchange.base}/runs/{quote(run, safe='~:')}"
    created = outcomes[0].word == "appended"
    await exchange.answer_json(201 if created else 200, answer, [(b"location", location.encode())])


def _link(exchange: Exchange, run: str) -> str | None:
    """A signed address of the run; None where there is no key to sign it with."""
    if not exchange.gateway.tail.settings.jwt_key:
        return None
    return exchange.gateway.tail.run(run).link()


def _run_of(asked: str, thread: str) -> str:
    if not thread:
        return check_run(asked, field="id") if asked else ulid()
    return f"{thread}~{check_name(asked, 'run ID', field='id') if asked else ulid()}"


async def _members(exchange: Exchange, *allowed: str, optional: bool = False) -> Mapping[str, Member]:
    """The body's members. Raises Problem. optional: none where the body is empty."""
    body = await exchange.body()
    if optional and not body.strip():
        return {}
    return read_members(body, allowed, max_event=exchange.gateway.tail.settings.max_event_kib * 1024)


def _text(members: Mapping[str, Member], name: str, *, required: bool = False) -> str:
    """A member that is a string; empty if it is absent."""
    if name not in members:
        if required:
            raise Problem("bad-event", f"{name} is missing.", field=name, remedy=f"Give {name}.")
        return ""
    value = members[name].value
    if not isinstance(value, str):
        raise Problem(
            "bad-event", f"{name} is no string.", field=name, value=members[name].text.strip(), remedy="Give a string."
        )
    if not value:
        raise Problem("bad-name", f"{name} is empty.", field=name, value="", remedy=f"Give {name}, or leave it out.")
    return value


def _delay(member: Member | None) -> float:
    if member is None:
        return 0
    value = member.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_DELAY_SECONDS:
        raise Problem(
            "bad-event",
            "delay_seconds is no number of seconds up to a year.",
            field="delay_seconds",
            value=member.text.strip(),
            remedy=f"Give a number from 0 to {MAX_DELAY_SECONDS}.",
        )
    return value


async def post_cancel(exchange: Exchange, run: str) -> None:
    """Asks a run to stop; 202 while it has not ended, 200 once it has."""
    check_run(run)
    await exchange.permit(Access("cancel", run))
    members = await _members(exchange, "reason", optional=True)
    reason = members["reason"].value if "reason" in members else ""
    if not isinstance(reason, str):
        raise Problem(
            "bad-event", "reason is no string.", field="reason", value=members["reason"].text.strip(), remedy="Say why."
        )
    session = await exchange.session()
    async with asyncio.timeout(SERVER_SECONDS):
        word, status = await session.scripts.cancel(session.keys.of(run), run, dumps(reason))
    state = known(await exchange.state(run) if word != "unknown" else None, run)
    if word == "corrupt":
        raise Problem("corrupt", field="run", value=run)
    asked = word == "asked"
    answer = {"run": run, "asked": asked, "status": status or state.status}
    await exchange.answer_json(202 if asked else 200, answer)


async def post_input(exchange: Exchange, run: str) -> None:
    """Answers what a run waits for: run.resumed."""
    check_run(run)
    media_of(exchange.headers("content-type"), exchange.headers("content-encoding"))
    await exchange.permit(Access("answer", run))
    members = await _members(exchange, "ask", "value")
    if "value" not in members:
        raise Problem("bad-event", "value is missing.", field="value", remedy="Give the answer as value.")
    state = await exchange.known(run)  # an unknown run is not made by its answer
    ask = _text(members, "ask")
    if not is_text(ask):
        raise Problem(
            "bad-event", "ask is no text.", field="ask", value=ask, remedy="Give it as the run's state has it."
        )
    ask = ask or state.ask or ""
    value = one_line(members["value"].text.strip())
    named = b'"ask":%b,' % dumps(ask) if ask else b""
    resumed = draft("run.resumed", b'{%b"value":%b}' % (named, value), ask=ask, value=value, task=state.task or "")
    session = await exchange.session()
    outcomes = await session.producer.append_body(run, [resumed])
    if not outcomes[0].accepted:
        problem = await refused(exchange, run, [resumed], outcomes, 0)
        del problem.extra["index"], problem.extra["results"]
        raise problem
    await exchange.answer_json(202, {"run": run, "id": outcomes[0].id})
