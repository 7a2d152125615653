"""From `run.write` to a subscriber's socket, against what redis-py's SPUBLISH takes to a bare subscriber of the server."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import uvloop
from redis.asyncio import Redis

from bench.report import Report
from bench.serving import path_of
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.connection import pack

__all__ = ["measure_latency"]

APART_SECONDS: Final = 0.002  # between two events: each is alone
DEADLINE_SECONDS: Final = 10.0


class _Socket(asyncio.Protocol):
    """Notes when bytes came that hold a mark."""

    def __init__(self) -> None:
        self.came: asyncio.Future[float] | None = None
        self.mark = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        at = time.perf_counter()
        if self.came is not None and not self.came.done() and self.mark in data:
            self.came.set_result(at)

    async def after(self, mark: bytes, call: Callable[[], Awaitable[Any] | None]) -> float:
        """Microseconds from before the call until the mark has come."""
        self.came, self.mark = asyncio.get_running_loop().create_future(), mark
        begin = time.perf_counter()
        waiting = call()
        if waiting is not None:
            await waiting
        async with asyncio.timeout(DEADLINE_SECONDS):
            return (await self.came - begin) * 1e6


def measure_latency(report: Report, url: str, *, quick: bool) -> None:
    """One event of each kind in turn, nothing else running."""
    rounds = 50 if quick else 1500
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(_measure(url, rounds))
    for name, samples in took.items():
        p50, p99 = statistics.median(samples), statistics.quantiles(samples, n=100)[98]
        report.row(name, f"{p50:.0f} us", f"p99 {p99:.0f} us", key=name, figure={"p50_us": p50, "p99_us": p99})
    floor, ours = took[FLOOR], took[TRANSPORT]
    part = len(floor) // 5
    ratios = [
        statistics.median(ours[at : at + part]) / statistics.median(floor[at : at + part])
        for at in range(0, part * 5, part)
    ]
    report.judge("feed.latency_p50_of_spublish", ratios, "at most", 3)


FLOOR: Final = "redis-py SPUBLISH -> bare subscriber"
TRANSPORT: Final = "run.write -> append -> gateway -> SSE socket, transport"
SEND: Final = "the same by ASGI send"
BARE: Final = "run.write -> append -> bare subscriber"


async def _measure(url: str, rounds: int) -> dict[str, list[float]]:
    gateways = {kind: _gateway(kind, url) for kind in ("transport", "send")}
    redis = Redis.from_url(url, protocol=2)
    try:
        async with Tailrace(settings=Settings(redis_url=url)) as tail:
            run = tail.run("latency")
            await run.write("begin")
            channel = (await tail.session()).keys.of(run.id).channel(run.id)
            bare = await _subscribed(url, channel)
            streams = {kind: await _stream(kind, process) for kind, process in gateways.items()}
            took: dict[str, list[float]] = {FLOOR: [], BARE: [], TRANSPORT: [], SEND: []}
            ways = [(BARE, bare), (TRANSPORT, streams["transport"]), (SEND, streams["send"])]
            for n in range(rounds):
                mark = f"<{n:06}>".encode()
                body = b'1-1\n"type":"message.delta","data":{"text":"%b"}}' % mark
                took[FLOOR].append(await bare.after(mark, lambda body=body: redis.spublish(channel, body)))  # type: ignore[misc]
                await asyncio.sleep(APART_SECONDS)
                for name, to in ways:
                    text = f"<{n:06}{name[-4:]}>"
                    took[name].append(await to.after(text.encode(), lambda text=text: _write(run, text)))  # type: ignore[misc]
                    await asyncio.sleep(APART_SECONDS)
            for one in (bare, *streams.values()):
                one.transport.abort()
    finally:
        await redis.aclose()
        for process in gateways.values():
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    return took


def _write(run: Any, text: str) -> None:
    run.write(text)


def _gateway(kind: str, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "bench.serving", kind, url], stdout=subprocess.PIPE, text=True)


async def _subscribed(url: str, channel: str) -> _Socket:
    loop = asyncio.get_running_loop()
    _, bare = await loop.create_unix_connection(_Socket, unquote(url.removeprefix("unix://")))
    await bare.after(b"ssubscribe", lambda: bare.transport.write(pack(b"SSUBSCRIBE", channel)))
    return bare


async def _stream(kind: str, process: subprocess.Popen[str]) -> _Socket:
    assert process.stdout is not None
    port = int(await asyncio.to_thread(process.stdout.readline))
    _, stream = await asyncio.get_running_loop().create_connection(_Socket, "127.0.0.1", port)
    head = f"GET {path_of(kind, 'latency')} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n"
    await stream.after(b"tailrace.caught_up", lambda: stream.transport.write(head.encode()))
    return stream
