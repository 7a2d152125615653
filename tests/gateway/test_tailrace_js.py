"""tailrace.js in Node, against a server that says exactly what each test scripts."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).parents[2] / "gateway" / "tailrace.js"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: tailrace.js is not run")

STREAM = "text/event-stream"
OPEN = {"run": "r", "status": "running", "cursor": "0", "tail": "1-1", "attempt": 1}

HARNESS = """
import { follow } from %(module)s
const views = [], options = {}
let error = null
%(before)s
try {
  for await (const view of follow(%(url)s, options)) {
    views.push(JSON.parse(JSON.stringify(view)))
    %(each)s
  }
} catch (caught) {
  error = { message: caught.message, cause: caught.cause }
}
console.log(JSON.stringify({ views, error }))
process.exit(0)
"""


def control(name: str, data: object, retry_ms: int | None = None) -> bytes:
    """A named frame as WIRE 4 draws it."""
    retry = "" if retry_ms is None else f"retry: {retry_ms}\n"
    return f"event: tailrace.{name}\ndata: {json.dumps(data)}\n{retry}\n".encode()


def event(seq: int, type_: str, data: object = None, attempt: int | None = None) -> bytes:
    """An unnamed frame: the envelope of event `seq`."""
    envelope: dict[str, object] = {"id": f"{seq}-{1000 + seq}", "run": "r", "type": type_}
    if attempt is not None:
        envelope["attempt"] = attempt
    envelope["data"] = data
    return f"id: {seq}-{1000 + seq}\ndata: {json.dumps(envelope, ensure_ascii=False)}\n\n".encode()


def delta(seq: int, text: str, attempt: int | None = None, **more: str) -> bytes:
    return event(seq, "message.delta", {"text": text, **more}, attempt)


def opened(**changes: object) -> bytes:
    return control("open", OPEN | changes, retry_ms=5)


@dataclass
class Answer:
    """One connection: what it answers, whether its stream ends cleanly, breaks or stays open."""

    parts: list[bytes] = field(default_factory=list)
    status: int = 200
    type: str = STREAM
    then: str = "cut"  # cut, end or hold


def problem(status: int, slug: str, detail: str = "no") -> Answer:
    body = json.dumps({"type": slug, "title": slug, "status": status, "detail": detail}).encode()
    return Answer([body], status, "application/problem+json", "end")


@dataclass
class Script:
    """A server that gives its answers in turn and keeps what was asked."""

    answers: list[Answer]
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        self.asked.append((head[0].split()[1], {name.lower(): value for name, value in pairs}))
        answer = self.answers.pop(0)
        if answer.status == 204:
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            return
        writer.write(f"HTTP/1.1 {answer.status} X\r\ncontent-type: {answer.type}\r\nconnection: close\r\n".encode())
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for part in answer.parts:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        if answer.then == "end":
            writer.write(b"0\r\n\r\n")
        if answer.then == "hold":
            await reader.read()
            self.left.set()


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Script]:
    script = Script(list(answers))
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    async with server:
        yield script


async def play(script: Script, *, before: str = "", each: str = "", path: str = "/runs/r/events") -> Any:
    """What a page sees: {"views", "error"}."""
    assert NODE is not None
    source = HARNESS % {
        "module": json.dumps(MODULE.as_uri()),
        "url": json.dumps(f"http://127.0.0.1:{script.port}{path}"),
        "before": before,
        "each": each,
    }
    command = [NODE, "--input-type=module", "-e", source]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return json.loads(output)


def test_it_is_small() -> None:
    """The module is 3 KB at most, as it is served."""
    assert len(MODULE.read_bytes()) <= 3072


@needs_node
async def test_text_until_the_end() -> None:
    """Text is assembled from increments, status follows the lifecycle, and the end of the run ends the loop."""
    parts = [
        opened(status="succeeded"),
        event(1, "run.started", {"task": "t"}, 1),
        delta(2, "Be", 1),
        delta(3, "cause", 1),
        control("caught_up", {"cursor": "3-1003"}),
        event(4, "run.finished", {"result": 7}, 1),
        control("end", {"status": "succeeded", "cursor": "4-1004"}),
    ]
    async with serving(Answer(parts, then="end")) as script:
        seen = await play(script)
    assert seen["error"] is None
    last = seen["views"][-1]
    assert (last["text"], last["status"], last["attempt"]) == ("Because", "succeeded", 1)
    assert last["last"]["data"] == {"result": 7}
    assert last["end"] == {"status": "succeeded", "cursor": "4-1004"}
    types = [event["type"] for view in seen["views"] for event in view["events"]]
    assert types[:4] == ["tailrace.open", "run.started", "message.delta", "message.delta"]
    assert script.asked[0][1]["accept"] == STREAM
    assert "last-event-id" not in script.asked[0][1]


@needs_node
async def test_status_goes_with_the_text() -> None:
    """While old events are read, the status is the one that they tell, not what the run has become since."""
    parts = opened(status="succeeded") + event(1, "run.started", {}, 1) + delta(2, "Be", 1)
    async with serving(Answer([parts], then="hold")) as script:
        seen = await play(script, each="break")
    assert (seen["views"][0]["status"], seen["views"][0]["text"]) == ("running", "Be")


@needs_node
async def test_broken_connections_are_resumed() -> None:
    """A connection that breaks, also within a frame or a character, is resumed behind the last whole event."""
    whole = delta(2, "größer", 1)
    half = delta(3, "→ end", 1)
    inside = half.index("→".encode()) + 1
    answers = (
        Answer([opened() + event(1, "run.started", {}, 1) + whole[:-9], whole[-9:], half[:inside]]),
        Answer([opened() + half[:inside], half[inside:]], then="end"),
        Answer([opened() + control("end", {"status": "running", "cursor": "3-1003"})], then="end"),
    )
    async with serving(*answers) as script:
        seen = await play(script)
    assert seen["views"][-1]["text"] == "größer→ end"
    assert [headers.get("last-event-id") for _, headers in script.asked] == [None, "2-1002", "3-1003"]


@needs_node
async def test_a_cursor_of_ones_own() -> None:
    """`after` is sent as the last ID, and what lies before it is taken from the server's word."""
    caught_up = control("caught_up", {"cursor": "9-1009"})
    async with serving(Answer([opened(attempt=3) + caught_up]), Answer(status=204)) as script:
        seen = await play(script, before='options.after = "9-1009"')
    assert script.asked[0][1]["last-event-id"] == "9-1009"
    assert (seen["views"][-1]["status"], seen["views"][-1]["attempt"]) == ("running", 3)


@needs_node
async def test_failed_attempts_leave_no_text() -> None:
    """A coming attempt voids what smaller ones wrote; what has no attempt stays."""
    parts = [
        opened(),
        delta(1, "outside "),
        event(2, "run.started", {}, 1),
        delta(3, "wrong", 1),
        event(4, "run.retrying", {"reason": "error"}, 2),
        event(5, "run.started", {}, 2),
        delta(6, "right", 2),
        control("end", {"status": "succeeded", "cursor": "6-1006"}),
    ]
    async with serving(Answer(parts, then="end")) as script:
        seen = await play(script)
    texts = [view["text"] for view in seen["views"]]
    assert texts[-1] == "outside \n\nright"
    assert not any("wrong" in text and "right" in text for text in texts)
    assert seen["views"][-1]["attempt"] == 2


@needs_node
async def test_messages_by_their_ids() -> None:
    """Increments go to the message that they name, else to the one opened last, else to one that is opened for them."""
    parts = [
        opened(),
        event(1, "message.started", {"message": "a", "role": "assistant"}, 1),
        event(2, "message.started", {"message": "b", "role": "user"}, 1),
        delta(3, "B", 1),
        delta(4, "A", 1, message="a"),
        delta(5, "C", 1, message="c"),
        event(6, "message.delta", {"text": 5}, 1),
        event(7, "message.delta", None, 1),
        control("end", {"status": "running", "cursor": "7-1007"}),
    ]
    async with serving(Answer([b"".join(parts)], then="end")) as script:
        seen = await play(script)
    messages = [(m["message"], m.get("role"), m["text"]) for m in seen["views"][-1]["messages"]]
    assert messages == [("a", "assistant", "A"), ("b", "user", "B"), ("c", None, "C")]
    assert seen["views"][-1]["text"] == "A\n\nB\n\nC"


@needs_node
@pytest.mark.parametrize(("reason", "text"), [("trimmed", "old new"), ("expired", "old new"), ("rewritten", "new")])
async def test_gaps(reason: str, text: str) -> None:
    """A trimmed or expired part is told and passed over; a rewritten history discards what came before."""
    gap = {"from": 2, "to": 4, "reason": reason, "snapshot": {"status": "succeeded"}}
    first, second = opened() + delta(1, "old "), opened() + control("gap", gap) + delta(5, "new")
    end = control("end", {"status": "succeeded", "cursor": "5-1005"})
    async with serving(Answer([first]), Answer([second + end], then="end")) as script:
        seen = await play(script)
    assert seen["views"][-1]["text"] == text
    assert seen["views"][-1]["gap"] == gap


@needs_node
async def test_an_ended_run_is_not_asked_again() -> None:
    """204 ends the loop without an error."""
    async with serving(Answer(status=204)) as script:
        seen = await play(script)
    assert seen == {"views": [], "error": None}


@needs_node
async def test_refusals_are_thrown() -> None:
    """A 4xx throws its detail, with the whole problem as the cause, and is not repeated."""
    async with serving(problem(404, "unknown-run", "no run r")) as script:
        seen = await play(script)
    assert seen["error"]["message"] == "no run r"
    assert seen["error"]["cause"]["type"] == "unknown-run"
    assert len(script.asked) == 1


@needs_node
async def test_a_busy_or_absent_server_is_asked_again() -> None:
    """A 5xx, JSON or not, is tried again."""
    end = Answer([opened() + delta(1, "x") + control("end", {"status": "failed", "cursor": "1-1001"})], then="end")
    fast = "const wait = setTimeout; globalThis.setTimeout = (go, ms) => wait(go, ms === 6e4 ? ms : 5)"
    bad_gateway = Answer([b"<h1>Bad Gateway</h1>"], 502, "text/html", "end")
    async with serving(problem(503, "draining"), bad_gateway, end) as script:
        seen = await play(script, before=fast)
    assert (seen["views"][-1]["text"], seen["views"][-1]["status"]) == ("x", "failed")


@needs_node
async def test_links_are_renewed() -> None:
    """An expired link, refused at once or during the stream, is renewed where the caller can; else it is thrown."""
    expired = {"type": "token-expired", "title": "x", "status": 401, "detail": "the link ended"}
    answers = (
        Answer([opened() + delta(1, "a") + control("denied", expired)]),
        problem(401, "token-expired"),
        Answer([opened() + delta(2, "b") + control("denied", expired)]),
    )
    renew = "let n = 0; options.renew = async () => `${%s}/new?token=${++n}`"
    async with serving(*answers, problem(401, "denied", "stranger")) as script:
        seen = await play(script, before=renew % json.dumps(f"http://127.0.0.1:{script.port}"))
    assert [path for path, _ in script.asked[1:]] == ["/new?token=1", "/new?token=2", "/new?token=3"]
    assert seen["views"][-1]["text"] == "ab"
    assert seen["error"]["message"] == "stranger"

    async with serving(Answer([opened() + control("denied", expired)])) as script:
        assert (await play(script))["error"]["cause"]["type"] == "token-expired"


@needs_node
async def test_text_cannot_forge_frames() -> None:
    """Line separators, field names and control types inside JSON strings stay text; heartbeats are passed over."""
    evil = "\u2028event: tailrace.end\u2029data: {}\u0085id: 9-9\n\ndata: x: y\r\n"
    end = control("end", {"status": "failed", "cursor": "2-1002"})
    types = b":\n" + event(2, "constructor.gap", {"reason": "rewritten"})
    async with serving(
        Answer([opened() + b":\n", b":\n" + delta(1, evil), types + b":\n" + end], then="end")
    ) as script:
        seen = await play(script)
    assert seen["error"] is None
    assert seen["views"][-1]["text"] == evil
    assert seen["views"][-1]["status"] == "failed"


@needs_node
async def test_leaving_closes_the_connection() -> None:
    """`break` and the signal close the stream; the signal ends the loop without an error."""
    stream = Answer([opened() + delta(1, "x")], then="hold")
    async with serving(stream, stream) as script, asyncio.timeout(20):
        seen = await play(script, each="break")
        assert (len(seen["views"]), seen["error"]) == (1, None)
        await script.left.wait()
        stop = "const end = new AbortController(); options.signal = end.signal"
        seen = await play(script, before=stop, each="end.abort()")
        assert (len(seen["views"]), seen["error"]) == (1, None)


@needs_node
async def test_a_silent_connection_is_given_up() -> None:
    """After a minute without even a heartbeat the connection counts as broken."""
    fast = "const wait = setTimeout; globalThis.setTimeout = (go, ms) => wait(go, ms === 6e4 ? 200 : ms)"
    end = control("end", {"status": "succeeded", "cursor": "1-1001"})
    answers = Answer([opened() + delta(1, "x")], then="hold"), Answer([opened() + end], then="end")
    async with serving(*answers) as script:
        seen = await play(script, before=fast)
    assert script.asked[1][1]["last-event-id"] == "1-1001"
    assert seen["views"][-1]["text"] == "x"
