"""A server that gives the same answers to everybody: for releases and faults that nobody can install."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

__all__ = ["REDIS_6", "bulk", "impostor"]


def bulk(text: str) -> bytes:
    """A string as a server sends it."""
    return f"${len(text)}\r\n{text}\r\n".encode()


TIME = b"*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n"
REDIS_6 = {b"TIME": TIME, b"INFO": bulk("redis_version:6.0.16\r\nrole:master\r\n"), b"CONFIG": b"*0\r\n"}


@asynccontextmanager
async def impostor(answers: Mapping[bytes, bytes]) -> AsyncIterator[str]:
    """Its URL. answers: command -> reply as it goes over the wire; to others it says OK."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int((await reader.readline())[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                writer.write(answers.get(words[0].upper(), b"+OK\r\n"))
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
