"""Ctrl-C with a hundred open streams ends any server within a second, and says nothing strange on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.gateway.sse_client import Stream, connect
from tests.processor.store.feedside import Feed
from tests.support.program import Program
from tests.support.servers import TestServer
from tests.support.until import until

SERVERS = {
    "uvicorn": "uvicorn {app} --host 127.0.0.1 --port {port}",
    "uvicorn with our protocol": "uvicorn {app} --host 127.0.0.1 --port {port} --http gateway.protocol:Protocol",
    "uvicorn --reload": "uvicorn {app} --host 127.0.0.1 --port {port} --reload --reload-dir tests/support",
    "uvicorn --workers 2": "uvicorn {app} --host 127.0.0.1 --port {port} --workers 2",
    "hypercorn": "hypercorn {app} --bind 127.0.0.1:{port}",
    "granian": "granian --interface asgi --host 127.0.0.1 --port {port} {app}",
}
STREAMS = 100


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def listening(port: int, program: Program) -> None:
    async def accepts() -> bool:
        assert program.process.poll() is None, program.err
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(accepts, "the server listens", 30)


@pytest.mark.parametrize("app", ["tests.gateway.apps:fastapi", "tests.gateway.apps:starlette"])
@pytest.mark.parametrize("name", SERVERS)
async def test_ctrl_c_ends_it(
    server: TestServer, namespace: str, program: Callable[..., Program], name: str, app: str
) -> None:
    """All streams get their hint to reconnect and break without a last chunk; the process is gone within a second."""
    port = free_port()
    command = SERVERS[name].format(app=app, port=port)
    running = program(
        "python", "-m", *command.split(), env={"TAILRACE_REDIS_URL": server.url, "TAILRACE_NAMESPACE": namespace}
    )
    async with (
        Tailrace(settings=Settings(redis_url=server.url, namespace=namespace)) as tail,
        AsyncExitStack() as stack,
    ):
        feed = Feed(await tail.session(), "r1")
        await feed.append("run.started")
        await listening(port, running)
        streams: list[Stream] = []
        for i in range(STREAMS):
            path = f"{'/tail' if i % 2 else ''}/runs/r1/events"
            streams.append(await stack.enter_async_context(connect(f"http://127.0.0.1:{port}", path)))
        for stream in streams:
            await stream.has("caught_up")
        begin = time.monotonic()
        os.killpg(running.pid, signal.SIGINT)
        for stream in streams:
            await stream.ends(5)
        streams_ended = time.monotonic() - begin
        assert streams_ended < 1.0
        await running.ended(5)
        took = time.monotonic() - begin
        print(f"{name}, {app}: streams {streams_ended:.2f} s, process {took:.2f} s")
        assert [stream.names[-1] for stream in streams] == ["reconnect"] * STREAMS
        assert not any(stream.clean for stream in streams)
        assert "without completing" not in running.err
        assert "Traceback" not in running.err, running.err
        # where more processes want the cores than there are, everything takes so much longer
        assert took < max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        await feed.clear()
