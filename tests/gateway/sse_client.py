"""A client on a bare socket that sees what came byte for byte: head, chunks, frames, and how the stream ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.until import until

__all__ = ["Frame", "Stream", "connect"]


@dataclass
class Frame:
    """One SSE event. name: "" for an unnamed one."""

    name: str = ""
    id: str = ""
    retry: str = ""
    text: str = ""

    @property
    def data(self) -> Any:
        return json.loads(self.text)


@dataclass
class Stream:
    """An open response. `body` is what came so far without chunking; `over` once the connection has ended or the last chunk came."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    clean: bool = False  # the last chunk came
    over: bool = False
    task: asyncio.Task[None] | None = None

    async def read_head(self) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
        }

    async def read_body(self) -> None:
        try:
            if self.headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    self.body += await self.reader.readexactly(size)
                    assert await self.reader.readexactly(2) == b"\r\n"
                self.clean = True
            elif "content-length" in self.headers:
                self.body += await self.reader.readexactly(int(self.headers["content-length"]))
                self.clean = True
            elif self.status != 204:
                while data := await self.reader.read(65536):
                    self.body += data
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.over = True

    @property
    def frames(self) -> list[Frame]:
        """Whole frames so far; heartbeats are left out."""
        found = []
        for block in bytes(self.body).decode().split("\n\n")[:-1]:
            frame = Frame()
            seen = set()
            for line in block.split("\n"):
                if line == ":":
                    continue
                name, _, value = line.partition(": ")
                assert name in ("id", "event", "data", "retry"), line
                assert name not in seen, block
                assert value, block
                seen.add(name)
                setattr(frame, {"event": "name", "data": "text"}.get(name, name), value)
            found.append(frame)
        return found

    @property
    def events(self) -> list[Frame]:
        return [frame for frame in self.frames if not frame.name]

    @property
    def ids(self) -> list[str]:
        return [frame.id for frame in self.events]

    @property
    def names(self) -> list[str]:
        """Names of control frames without `tailrace.`, `-` for each event."""
        return [frame.name.removeprefix("tailrace.") or "-" for frame in self.frames]

    def named(self, name: str) -> Any:
        """data of the only frame of that name."""
        (found,) = [frame for frame in self.frames if frame.name == f"tailrace.{name}"]
        return found.data

    async def has(self, name: str) -> None:
        await until(lambda: f"event: tailrace.{name}\n".encode() in self.body or self.over, f"{name} came")
        assert name in self.names, bytes(self.body)

    async def has_events(self, count: int) -> None:
        await until(lambda: self.body.count(b"\n\n") >= count and len(self.events) >= count, f"{count} events came")

    async def ends(self, deadline: float = 5) -> None:
        await until(lambda: self.over, "the stream ended", deadline)

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        self.writer.transport.abort()


@asynccontextmanager
async def connect(
    address: str,
    path: str,
    *,
    method: str = "GET",
    version: str = "1.1",
    headers: dict[str, str] | None = None,
    read: bool = True,
    receive_buffer: int | None = None,
) -> AsyncIterator[Stream]:
    """address: http://127.0.0.1:port. read False: only the head is read until `read_body` is awaited."""
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), **({} if receive_buffer is None else {"limit": receive_buffer})
    )
    given = {"host": f"{host}:{port}", "accept": "text/event-stream", **(headers or {})}
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in given.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    stream = Stream(reader, writer)
    try:
        await stream.read_head()
        if read:
            if method == "HEAD":
                stream.over = True
            else:
                stream.task = asyncio.create_task(stream.read_body())
        yield stream
    finally:
        stream.close()
