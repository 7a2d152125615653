"""Protocol: what uvicorn's own lacks, seen from a bare socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import protocol as protocol_module
from gateway.protocol import Protocol
from tests.gateway.serving import under_uvicorn
from tests.support.until import until


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body; /stream has no length of its own, /endless no end."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    offered = "tailrace.transport" in scope["extensions"]
    text = b"%d %s" % (size, b"transport" if offered else b"none")
    length = [] if scope["path"] in ("/stream", "/endless") else [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    if scope["path"] == "/endless":
        await send({"type": "http.response.body", "body": b"begins", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    for part in (text[:2], text[2:]):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.setattr(protocol_module, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(protocol_module, "BODY_SECONDS", 0.3)
    async with under_uvicorn(app, http=Protocol, timeout_keep_alive=60) as address:
        yield address


async def say(address: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server closes, or nothing comes for a while."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    got = b""
    try:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)
        async with asyncio.timeout(0.6):
            while data := await reader.read(65536):
                got += data
            return got + b"<closed>"
    except (TimeoutError, ConnectionError) as error:
        return got + (b"<closed>" if isinstance(error, ConnectionError) else b"<open>")
    finally:
        writer.transport.abort()


async def test_transport_is_offered(address: str) -> None:
    """The connection's transport stands in the scope, and bodies come as with uvicorn's own protocol."""
    got = await say(address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", b"hello", pause=0.01)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"\r\n\r\n5 transport<open>")


async def test_requests_may_be_pipelined(address: str) -> None:
    """Several requests at once on one connection are answered in order."""
    got = await say(address, b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
    assert got.count(b"0 transport") == 5
    assert got.endswith(b"<open>")


async def test_silent_connection_is_closed(address: str) -> None:
    """A connection on which nothing comes is closed without a word."""
    assert await say(address) == b"<closed>"


@pytest.mark.parametrize("head", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n"])
async def test_slow_head_is_408(address: str, head: bytes) -> None:
    """A head that is not whole in time is answered 408 and the connection closed."""
    got = await say(address, head)
    assert got.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"timeout"' in got
    assert got.endswith(b"<closed>")


async def test_slow_second_head_is_408(address: str) -> None:
    """The limit holds for each request of a connection."""
    got = await say(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP", pause=0.05)
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in got


async def test_slow_body_is_408(address: str) -> None:
    """A body that is not whole in time as well; one that trickles in time is taken."""
    got = await say(address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
    assert got.startswith(b"HTTP/1.1 408 ")
    assert got.endswith(b"<closed>")
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    got = await say(address, head, b"a", b"b", b"c", pause=0.05)
    assert b"3 transport" in got


@pytest.mark.parametrize(
    "head",
    [
        pytest.param([b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"a" * 17_000 + b"\r\n\r\n"], id="one header"),
        pytest.param([b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"], id="path"),
        pytest.param(
            [b"GET / HTTP/1.1\r\n"] + [b"A%d: b\r\n" % i + b"B: " + b"c" * 100 + b"\r\n" for i in range(200)], id="many"
        ),
        pytest.param([b"GET / HTTP/1.1\r\nA: "] + [b"a" * 4000] * 6, id="never whole"),
    ],
)
async def test_large_head_is_431(address: str, head: list[bytes]) -> None:
    """Request line and headers beyond 16 KiB are refused before anything is started."""
    got = await say(address, *head, pause=0.001)
    assert got.startswith(b"HTTP/1.1 431 ")
    assert b'"type":"headers-too-large"' in got
    assert got.endswith(b"<closed>")


async def test_head_below_the_limit_is_taken(address: str) -> None:
    """16,000 bytes are no reason."""
    got = await say(address, b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"a" * 16_000 + b"\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers", [[b"Cookie: " + b"a" * 12_000], [b"A%d: " % i + b"a" * 1000 for i in range(12)]], ids=["one", "many"]
)
async def test_head_below_the_limit_is_taken_in_pieces(address: str, headers: list[bytes]) -> None:
    """As a network brings it: no byte counts twice."""
    head = b"\r\n".join([b"GET / HTTP/1.1", b"Host: x", *headers, b"", b""])
    got = await say(address, *(head[at : at + 1400] for at in range(0, len(head), 1400)), pause=0.005)
    assert got.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"a" * 17_000 + b"\r\n\r\n", id="large head"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", id="slow body"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 200, id="very many"),
    ],
)
async def test_nothing_stands_in_an_answer_that_is_under_way(address: str, behind: bytes) -> None:
    """What is wrong with a request behind it costs the connection, and says nothing."""
    got = await say(address, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n", behind, pause=0.05)
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.endswith(b"<closed>")


@pytest.mark.parametrize("paths", ["/endless / /", "/ /endless /", "/ / /endless / /"])
async def test_an_endless_answer_ends_with_its_connection(address: str, paths: str) -> None:
    """Also where requests are pipelined behind it, and before it."""
    left = len(asyncio.all_tasks())
    requests = b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() for path in paths.split())
    assert (await say(address, requests)).endswith(b"begins\r\n<open>")
    await until(lambda: len(asyncio.all_tasks()) <= left, "its app has returned")


async def test_what_follows_a_refused_head_is_not_served(address: str) -> None:
    """It came with the same read."""
    large = b"GET / HTTP/1.1\r\nA: " + b"a" * 17_000 + b"\r\n\r\n"
    got = await say(address, large + b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 431 ")
    assert got.count(b"HTTP/1.1 ") == 1


async def test_http_1_0_gets_no_chunks(address: str) -> None:
    """An answer without a length ends with the connection; one with a length stays as it is."""
    got = await say(address, b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"transfer-encoding" not in got
    assert got.endswith(b"\r\n\r\n0 transport<closed>")
    got = await say(address, b"GET / HTTP/1.0\r\n\r\n")
    assert b"content-length: 11" in got
    assert got.endswith(b"0 transport<closed>")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"hello\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_closed(address: str, request_: bytes) -> None:
    """Requests that two servers on the way could read differently are answered 400 and the connection closed."""
    got = await say(address, request_)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.endswith(b"<closed>")
