"""Reading a feed over a bare socket, as strictly as WIRE 4 writes it: chunks, frames, and how the connection ended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

__all__ = ["Connection", "Frame", "Frames", "Malformed", "connect"]

SOCKET_BUFFER = 4096  # small, so that who does not read is soon felt at the other end
READ_BYTES = 32 * 1024


class Malformed(AssertionError):
    """The gateway sent what the contract does not allow."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One SSE event. data: bytes of its one line."""

    id: str | None
    event: str | None
    data: bytes
    retry: int | None


class Frames:
    """Cuts a stream into frames. Raises Malformed."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        if b"\r" in data:
            raise Malformed("a CR byte in the stream")
        buffer = self._buffer + data
        at = 0
        while True:
            while buffer.startswith(b":\n", at):  # a heartbeat, between frames only
                at += 2
            end = buffer.find(b"\n\n", at)
            if end < 0:
                break
            yield _frame(buffer[at:end])
            at = end + 2
        self._buffer = buffer[at:]


def _frame(text: bytes) -> Frame:
    fields: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        name, colon, value = line.partition(b": ")
        if name not in (b"id", b"event", b"data", b"retry") or not colon or not value or name in fields:
            raise Malformed(f"a frame with the line {line[:200]!r}")
        fields[name] = value
    if b"data" not in fields or (b"id" in fields) == (b"event" in fields):
        raise Malformed(f"neither an event with its ID nor a named frame: {text[:200]!r}")
    id, event, retry = fields.get(b"id"), fields.get(b"event"), fields.get(b"retry")
    return Frame(
        None if id is None else id.decode("ascii"),
        None if event is None else event.decode("ascii"),
        fields[b"data"],
        None if retry is None else int(retry),
    )


class Connection:
    """One answer: its status, then its frames. `whole`: it ended with the last chunk."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.status = 0
        self.headers: dict[str, str] = {}
        self.whole = False

    async def head(self) -> int:
        """Raises ConnectionError where the connection ended first."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("ended before the answer") from error
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        return self.status

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Of a 200, until the connection ends. Raises ConnectionError, Malformed."""
        if self.headers.get("content-type") != "text/event-stream" or "content-length" in self.headers:
            raise Malformed(f"an event stream with the headers {self.headers}")
        frames = Frames()
        async for data in self._chunks():
            for frame in frames.feed(data):
                yield frame

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Bodies of HTTP/1.1 chunks, in pieces as they come."""
        buffer = b""
        left = 0  # of the chunk at hand, its CRLF included
        while True:
            data = await self._reader.read(READ_BYTES)
            if not data:
                return
            buffer += data
            while buffer:
                if left == 0:
                    line, found, rest = buffer.partition(b"\r\n")
                    if not found:
                        break
                    size = int(line, 16)
                    if size == 0:
                        self.whole = True
                        return
                    buffer, left = rest, size + 2
                piece = buffer[:left]
                if left <= 2 or len(piece) == left:
                    if len(piece) < left:
                        break
                    buffer, left = buffer[left:], 0
                    yield piece[:-2]
                elif len(piece) <= left - 2:
                    buffer, left = b"", left - len(piece)
                    yield piece
                else:
                    break  # the chunk's CR without its LF


@asynccontextmanager
async def connect(
    port: int, path: str, headers: dict[str, str], *, buffer: int = SOCKET_BUFFER
) -> AsyncIterator[Connection]:
    """A GET. When the block ends, the connection is reset. Raises OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=READ_BYTES)
    except BaseException:
        sock.close()
        raise
    try:
        lines = [f"GET {path} HTTP/1.1", f"host: 127.0.0.1:{port}", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        yield Connection(reader)
    finally:
        writer.transport.abort()
