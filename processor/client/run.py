"""Run: the one handle. It writes, reads, cancels; entered with `async with` it creates the run and owns it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol

from typing_extensions import TypeVar

from processor.client.blocks import enter_block, leave_block
from processor.client.effects import current
from processor.client.lifecycle import check_ask, is_lifecycle, lifecycle_draft
from processor.client.link import link_to
from processor.client.parts import Message, Tool
from processor.core.assemble import Assembler
from processor.core.cursor import FeedId, parse_cursor
from processor.core.errors import (
    BadEvent,
    IllegalEvent,
    NotStarted,
    RunCancelled,
    RunClosed,
    RunError,
    RunFailed,
    RunNotFound,
    StaleAttempt,
)
from processor.core.events import GAP, Event, Fields, compose, draft, plain, text_payload, text_tail
from processor.core.failure import words_of
from processor.core.json import dumps
from processor.core.lifecycle import TERMINAL
from processor.core.names import check_labels, check_run, check_type
from processor.store.connection import execute, speaking_of
from processor.store.follow import follow
from processor.store.runs import RunState, read_feed, read_state, read_tail
from processor.store.writer import Sent, Writer

if TYPE_CHECKING:
    from processor.client.execution import Execution
    from processor.client.results import Results
    from processor.client.session import Session
    from processor.client.sync import SyncRun
    from processor.client.tailrace import Tailrace

__all__ = ["Places", "Run"]

R = TypeVar("R", default=Any)
M = TypeVar("M")
_TEXT_CHARS = (
    8000  # of one delta: at most six bytes a character in JSON, below the smallest event limit that makes sense
)
_TEXT_ALONE = text_tail({})


@functools.lru_cache(1024)
def _plain_head(type: str, attempt: int) -> bytes | None:
    """The payload of an event up to its data; None for one of the run's lifecycle. Raises BadEvent."""
    return None if is_lifecycle(check_type(type)) else compose(type, b"", attempt=attempt)[:-1]


def _new_id() -> str:
    """Unique in a run, whoever writes it and in which attempt."""
    return secrets.token_hex(4)


class Places(Protocol):
    """Where an execution takes a place among others, which it leaves while it waits for something else."""

    def leave(self, ask: str, *, parks: bool) -> None:
        """It waits: for the answer to that ask, or ("") for another run. parks: the server may wait for it."""

    def enter(self) -> None:
        """It goes on."""

    async def may_go_on(self) -> None:
        """Returns when nothing is under way that would end the execution while it waits."""


class Run(Generic[R]):
    """A handle of one run; making it does no I/O.

    In a task it writes live under the execution, elsewhere from outside. `attempt` is that of the execution it writes for,
    `task` its task's name.
    """

    # What most handles never need stands here: a reaction's is made for each event.
    task: str = ""
    attempt: int = 0
    _results: Results | None = None  # of the task that it was started by
    _awaited: frozenset[str] = frozenset()  # children that its function waits for
    _labels: Mapping[str, str] = MappingProxyType({})
    _live: Writer | None = None
    _open_live: Callable[[], Writer] | None = None  # of an execution that has written nothing yet
    _places: Places | None = None
    _not_started = False  # it begins when the handler that started it is over
    _execution: Execution | None = None  # of `async with`
    _open_message: str | None = None
    _asked: Mapping[str, int] = MappingProxyType({})

    def __init__(self, tail: Tailrace, id: str, *, labels: Mapping[str, str] | None = None) -> None:
        self.id = check_run(id)
        self._tail = tail
        if labels:
            self._labels = dict(check_labels(labels))

    @classmethod
    def _known(cls, tail: Tailrace, id: str) -> Run[Any]:
        """Of a run that the server named."""
        run: Run[Any] = cls.__new__(cls)
        run.id, run._tail = id, tail
        return run

    @functools.cached_property
    def _asking(self) -> asyncio.Lock:
        return asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Run {self.id}>"

    @property
    def sync(self) -> SyncRun[R]:
        """The same, blocking."""
        from processor.client.sync import SyncRun

        return SyncRun(self, self._tail.portal)

    # Writing: calling sends, awaiting waits.

    def write(self, text: str) -> Sent:
        """Text of the open message, opening one if none is; what is longer than an event may be becomes several."""
        if self._open_message is None:
            self._begin_message("message", "assistant")
        return self._send_text("message.delta", text, _TEXT_ALONE)

    def log(self, message: str, *, level: str = "info", **fields: object) -> Sent:
        """A log line of the run; a message of several lines stays together."""
        data: dict[str, object] = {"level": level, "lines": message.split("\n")}
        if fields:
            data["fields"] = fields
        return self._send("log", data)

    def emit(
        self, type: str, data: object = None, *, labels: Mapping[str, str] | None = None, traceparent: str | None = None
    ) -> Sent:
        """Any event; data: JSON, dataclass or pydantic model. The run's lifecycle has methods of its own."""
        head = _plain_head(type, self.attempt)
        if head is not None and labels is None and traceparent is None:
            return self._put((type, head + dumps(data) + b"}", (), ""))
        if labels:
            check_labels(labels)
        if head is None:
            return self._emit_lifecycle(type, data, labels, traceparent)
        return self._put(draft(type, dumps(data), attempt=self.attempt, labels=labels, traceparent=traceparent))

    def set(self, **state: object) -> Sent:
        """Merge keys into the run's state, e.g. progress."""
        patch = [
            {"op": "add", "path": "/" + key.replace("~", "~0").replace("/", "~1"), "value": value}
            for key, value in state.items()
        ]
        return self._send("state.patch", patch)

    @asynccontextmanager
    async def message(self, role: str = "assistant") -> AsyncIterator[Message]:
        """A message with an ID of its own."""
        async with self._text_part("message", role) as message:
            yield message

    @asynccontextmanager
    async def reasoning(self) -> AsyncIterator[Message]:
        """Reasoning, as models tell it before they answer."""
        async with self._text_part("reasoning", None) as reasoning:
            yield reasoning

    @asynccontextmanager
    async def step(self, name: str) -> AsyncIterator[None]:
        """A named, timed part. An exception ends it with its error."""
        step = _new_id()
        self._send("step.started", {"step": step, "name": name})
        try:
            yield
        except BaseException as error:
            self._close_part("step.finished", {"step": step, "error": words_of(error)})
            raise
        self._send("step.finished", {"step": step})

    @asynccontextmanager
    async def tool(self, name: str, args: object) -> AsyncIterator[Tool]:
        """A tool call; call result(value) in it. An exception is its error."""
        call = Tool(self, _new_id())
        started: dict[str, object] = {"tool": call.id, "name": name}
        if self._open_message is not None:
            started["message"] = self._open_message
        self._send("tool.started", started)
        self._send("tool.ready", {"tool": call.id, "args": args})
        try:
            yield call
        except BaseException as error:
            self._close_part("tool.error", {"tool": call.id, "error": words_of(error)})
            raise
        if not call.answered:
            call.result(None)

    async def ask(self, question: str, answer: type[M], *, timeout_seconds: float | None = None) -> M:
        """Wait for a person; Run.answer, HTTP or the console replies. Raises TimeoutError.

        A next attempt that asks the same question again gets the answer that was given. An answer of another type is asked
        for again.
        """
        from processor.client.asking import ask

        return await ask(self, question, answer, timeout_seconds)

    # Reading.

    async def follow(self, *, after: str | None = None, live: bool = True) -> AsyncIterator[Event[Any]]:
        """Every event once, in order, from the start or a cursor to the end; reconnects by itself.

        What is missing comes as an Event of type tailrace.gap. live=False: what is there now. Raises RunNotFound, BadCursor.
        """
        self._check_started("follow")
        session = await self._session()
        async for event in follow(session, self.id, parse_cursor(after), live=live):
            yield event

    async def state(self) -> RunState:
        """Status, attempt, task, times, error, waiting_for (why nothing happens, in words). Raises RunNotFound."""
        session = await self._session()
        with speaking_of(session.server.address.url):
            state = await read_state(session, self.id)
        if state is None:
            raise self._not_found()
        return state

    def _not_found(self) -> RunNotFound:
        return RunNotFound(f"there is no run {self.id}.", remedy="It never began, or it expired.", run=self.id)

    async def text(self) -> str:
        """Assembled text of the current attempt, with everything written through this handle."""
        await self._flush()
        assembler = Assembler()
        async for event in self.follow(live=False):
            if event.type == GAP and event.data["reason"] in ("rewritten", "corrupt"):
                assembler.restart()
            else:
                assembler.add(event)
        return assembler.text

    async def result(self, timeout_seconds: float | None = None) -> R:
        """Wait for the end; RunFailed or RunCancelled otherwise. Raises TimeoutError.

        Of a run that was started by its task the result has the type that the task returns (BadInput if it has not); of
        others it is JSON.
        """
        self._check_started("result")
        async with asyncio.timeout(timeout_seconds):
            last = await self._last_event()
        data = last.data if isinstance(last.data, dict) else {}
        if last.type == "run.finished":
            result: R = await self._result_of(data)
            return self._results.parse(result, self.id) if self._results is not None else result
        if last.type == "run.cancelled":
            raise RunCancelled(f"run {self.id} was cancelled: {data.get('reason') or 'no reason given'}.", run=self.id)
        reason, error = str(data.get("reason", "error")), str(data.get("error", ""))
        raise RunFailed(f"run {self.id} failed ({reason}): {error}", run=self.id, reason=reason, error=error)

    async def _result_of(self, data: Mapping[str, Any]) -> Any:
        """data: of run.finished. A result that was too large for it is read where it is."""
        if "reference" not in data:
            return data.get("result")
        from processor.client.references import result_of

        return await result_of(await self._session(), self.id, data)

    async def _last_event(self) -> Event[Any]:
        session = await self._session()
        with speaking_of(session.server.address.url):
            found = await read_tail(session, self.id)
        if found is None:
            raise self._not_found()
        status, tail = found[0], FeedId.parse(found[1])
        if status in TERMINAL:
            with speaking_of(session.server.address.url):
                events = await read_feed(session, self.id, tail.seq, count=1)
            if not events:
                raise RunClosed(
                    f"run {self.id} ended as {status}; its events have expired.", run=self.id, status=status
                )
            return Event(self.id, *events[0])
        last: Event[Any] | None = None
        async for event in follow(session, self.id, tail, live=True):
            last = event
        if last is None or last.ends is None:
            raise RunError(f"run {self.id}: its feed ended without an end.", run=self.id)
        return last

    # Steering.

    async def cancel(self, reason: str = "") -> bool:
        """Ask it to stop; False if it had ended. Leaving a feed never cancels. Raises RunNotFound."""
        session = await self._session()
        with speaking_of(session.server.address.url):
            word, _ = await session.scripts.cancel(session.keys.of(self.id), self.id, dumps(reason))
        if word == "unknown":
            raise RunNotFound(f"there is no run {self.id}.", remedy="It never began, or it expired.", run=self.id)
        return word == "asked"

    async def answer(self, value: object, *, ask: str | None = None) -> None:
        """Reply to the open ask(), or to the one named (state().ask). Raises IllegalEvent if that one is not open."""
        if ask is not None:
            check_ask(ask, "ask")
        state = await self.state()
        ask = state.ask if ask is None else ask
        if ask is None:
            raise IllegalEvent(f"run {self.id} waits for no answer.", run=self.id, type="run.resumed")
        encoded = dumps(value)
        data = b'{"ask":%b,"value":%b}' % (dumps(ask), encoded)
        await self._put(draft("run.resumed", data, ask=ask, value=encoded, task=state.task or ""))

    def link(self, *, seconds: int = 3600) -> str:
        """URL to read this run at the gateway, signed, read-only, valid for any number of reconnects until it expires."""
        return link_to(self._tail.settings, self.id, seconds)

    # Owning.

    async def __aenter__(self) -> Run[R]:
        from processor.client.execution import Execution

        if self._execution is not None:
            raise RuntimeError(f"run {self.id} is entered already")
        execution = Execution(await self._session(), self, labels=self._labels)
        await execution.enter()
        self._execution = execution
        enter_block(self, asyncio.get_running_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leave_block(self)
        execution, self._execution = self._execution, None
        assert execution is not None
        await execution.leave(error)

    # What the rest of the package uses.

    def _write_for(self, writer: Writer | None, attempt: int) -> None:
        """From now on this handle writes live for that attempt, or, without a writer, from outside."""
        self._live, self.attempt = writer, attempt
        self._open_message = None
        self._asked = {}

    def _execute_as(self, attempt: int, open_live: Callable[[], Writer], places: Places) -> None:
        """As _write_for; its writer is made when something is written."""
        self.attempt, self._open_live, self._places = attempt, open_live, places

    def _leave_execution(self) -> None:
        """What its function left behind is told so when it writes: nobody else would hear that it was too late."""
        self._live, self._open_live = None, self._refuse_live

    def _refuse_live(self) -> Writer:
        raise StaleAttempt(
            f"run {self.id}: its attempt {self.attempt} is over; what its function left behind cannot write into it.",
            remedy="Await what you start before you return.",
            run=self.id,
        )

    async def _session(self) -> Session:
        return await self._tail.session()

    def _writer(self) -> Writer:
        if self._live is None:
            if self._open_live is None:
                return self._tail._current().producer.writer(self.id)
            self._live = self._open_live()
        return self._live

    def _put(self, event: Fields) -> Sent:
        if self._live is None and self._open_live is None:
            effects = current(self._tail)
            if effects is not None:
                return effects.add(self.id, event)
        return self._writer_of(event).put(event)

    def _writer_of(self, event: Fields) -> Writer:
        """The writer, if the event is not too large for it. Raises BadEvent."""
        writer = self._live or self._writer()
        limit = writer.max_event_bytes
        if len(event[1]) > limit:
            raise BadEvent(
                f"an event {event[0]} of run {self.id} has {len(event[1]):,} bytes; at most {limit:,} are allowed.",
                remedy="Store it elsewhere and emit where it is, or raise TAILRACE_MAX_EVENT_KIB here and at the gateway.",
                field="data",
            )
        return writer

    def _check_started(self, what: str) -> None:
        if self._not_started:
            raise NotStarted(
                f"run {self.id} is started as an effect and begins when this handler returns: {what}() would wait for ever.",
                remedy="Use call(...) for a child whose result is needed here.",
            )

    @contextmanager
    def _elsewhere(self, ask: str = "", *, parks: bool = False) -> Iterator[None]:
        """While the block waits, for an answer or for another run, the execution takes no place among others."""
        if self._places is None:
            yield
            return
        self._places.leave(ask, parks=parks)
        try:
            yield
        finally:
            self._places.enter()

    async def _may_go_on(self) -> None:
        if self._places is not None:
            await self._places.may_go_on()

    def _send(self, type: str, data: object) -> Sent:
        return self._put(draft(type, dumps(data), attempt=self.attempt))

    def _close_part(self, type: str, data: object) -> None:
        """The end of a block, which may be left by an exception that must not be replaced by another one."""
        event = draft(type, dumps(data), attempt=self.attempt)
        if self._live is None and self._open_live is None and (effects := current(self._tail)) is not None:
            effects.add(self.id, event)
        else:
            self._writer().put_anyway(event)

    def _send_text(self, type: str, text: str, tail: bytes) -> Sent:
        if len(text) <= _TEXT_CHARS:
            return self._put(plain(type, text_payload(type, text, tail, self.attempt)))
        for at in range(0, len(text), _TEXT_CHARS):
            sent = self._put(plain(type, text_payload(type, text[at : at + _TEXT_CHARS], tail, self.attempt)))
        return sent

    def _emit_lifecycle(
        self, type: str, data: object, labels: Mapping[str, str] | None, traceparent: str | None
    ) -> Sent:
        """From outside: a plain producer's own lifecycle. What a task's run does is its execution's to say."""
        if self._live is not None or self._open_live is not None:
            raise IllegalEvent(
                f"run {self.id} is executed here: return, raise or cancel instead of emitting {type}.",
                run=self.id,
                type=type,
            )
        return self._put(lifecycle_draft(type, data, labels, traceparent))

    def _begin_message(self, kind: str, role: str | None) -> str:
        id = _new_id()
        data = {kind: id}
        if role is not None:
            data["role"] = role
        self._send(f"{kind}.started", data)
        if kind == "message":
            self._open_message = id
        return id

    @asynccontextmanager
    async def _text_part(self, kind: str, role: str | None) -> AsyncIterator[Message]:
        if kind == "message":
            self._end_message()
        message = Message(self, kind, self._begin_message(kind, role))
        try:
            yield message
        finally:
            if kind == "message" and self._open_message == message.id:
                self._open_message = None
            self._close_part(f"{kind}.finished", {kind: message.id})

    def _end_message(self) -> None:
        """Closes the message that write() opened."""
        if self._open_message is not None:
            id, self._open_message = self._open_message, None
            self._send("message.finished", {"message": id})

    async def _flush(self, *, patiently: bool = False) -> None:
        await self._writer().flush(patiently=patiently)

    async def _stored_answer(self, ask: str) -> bytes | None:
        session = await self._session()
        with speaking_of(session.server.address.url):
            stored: bytes | None = await execute(
                session.redis, "HGET", session.keys.of(self.id).run(self.id), f"a:{ask}"
            )
        return stored

    def _ask_id(self, question: str) -> str:
        """The same for the same question asked the same time, in every attempt."""
        ordinal = self._asked.get(question, 0) + 1
        self._asked = {**self._asked, question: ordinal}
        return hashlib.sha256(f"{ordinal} {question}".encode()).hexdigest()[:16]
