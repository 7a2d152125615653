"""What the faults happen to: a server with an AOF, gateways and producers, each a process of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.faults.oracle import Truth, seq_of
from tests.faults.producers import Order
from tests.faults.served import NAMESPACE, Served, aof
from tests.support.program import Program
from tests.support.servers import Daemon, Kind
from tests.support.until import until

__all__ = ["NAMESPACE", "World", "free_port", "the_world"]

Entry = tuple[bytes, dict[bytes, bytes]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class World(Served):
    """Use it by `the_world`."""

    def __init__(self, folder: Path, *, kind: Kind, gateways: int, settings: Mapping[str, str]) -> None:
        super().__init__(folder, Daemon(kind, folder, aof("everysec")))
        self.ports = tuple(free_port() for _ in range(gateways))
        self.gateways: dict[int, Program] = {}
        self.ended: list[Program] = []  # gateways that were killed: what they said still counts
        self.producers: dict[str, tuple[Order, Program]] = {}
        self.env = {"TAILRACE_REDIS_URL": self.url, "TAILRACE_LOG": "json", **settings}
        self.cut: dict[str, list[Entry]] = {}  # what was trimmed of each run, by us

    async def trim(self, run: str, keep: int) -> int:
        """Cuts the feed to its newest entries, and remembers the others. How many went."""
        async with self.client() as client:
            feed = (await self.keys(client)).of(run).feed(run)
            both = client.pipeline(transaction=True)
            both.xrange(feed)
            both.xtrim(feed, maxlen=keep, approximate=False)
            entries, gone = await both.execute()
        self.cut.setdefault(run, []).extend(entries[:gone])
        return int(gone)

    async def truth(self, run: str) -> Truth:
        """The feed as it is, with what was trimmed of it."""
        async with self.client() as client:
            entries: list[Entry] = await client.xrange((await self.keys(client)).of(run).feed(run))
        cut = self.cut.get(run, [])
        trimmed = seq_of(cut[-1][0].decode()) if cut else 0
        return Truth.of(run, [*cut, *entries], trimmed=trimmed)

    async def status(self, run: str) -> str:
        async with self.client() as client:
            found: bytes | None = await client.hget((await self.keys(client)).of(run).run(run), "status")
        return found.decode() if found else ""

    async def ownership(self, run: str) -> str:
        """What the server knows of a run's owner and of the passes over its partition; for failure messages."""
        async with self.client() as client:
            keys = (await self.keys(client)).of(run)
            meta = await client.hmget(keys.meta, "seen", "quiet")
            until_ms = await client.zscore(keys.owners, run)
            seconds, _ = await client.time()
            return f"{run}: {await client.hgetall(keys.run(run))}, seen and quiet {meta}, owned to {until_ms}, now {seconds}"

    # Gateways.

    def start_gateway(self, port: int) -> None:
        self.gateways[port] = Program(
            *("python", "-m", "processor.cli.main", "gateway", "--port", str(port)), env=self.env, cwd=self.folder
        )

    async def gateways_serve(self) -> None:
        """Returns when all of them answer."""
        for port, gateway in self.gateways.items():
            await gateway.says("Started server process", 20)
            await until(lambda port=port: _answers(port), f"a gateway answers at {port}", 10)  # type: ignore[misc]

    async def kill_gateway(self, port: int, sig: signal.Signals = signal.SIGKILL) -> None:
        gateway = self.gateways.pop(port)
        gateway.send(sig)
        await gateway.ended()
        self.ended.append(gateway)

    # Producers.

    def produce(self, order: Order) -> Order:
        self.producers[order.name] = (
            order,
            Program("python", "-m", "tests.faults.producers", order.text(), env=self.env),
        )
        return order

    def order(self, kind: str, name: str, run: str, seed: str, **options: Any) -> Order:
        return Order(
            kind=kind,
            name=name,
            run=run,
            seed=seed,
            journal=str(self.folder / f"{name}.journal"),
            url=self.url,
            namespace=NAMESPACE,
            ports=self.ports,
            **options,
        )

    async def finish_producers(self, deadline: float) -> list[str]:
        """Asks all of them to end their runs; what went wrong with them."""
        complaints = []
        for _, program in self.producers.values():
            if program.process.poll() is None:
                program.send(signal.SIGUSR1)
        for order, program in self.producers.values():
            code = await program.ended(deadline)
            if code not in (0, -signal.SIGKILL):
                complaints.append(f"producer {order.name} ended with {code}: {program.err[-2000:]}")
        return complaints

    def bugs(self) -> list[str]:
        """Exceptions that gateways or producers logged: a fault of the server is no bug."""
        programs: Sequence[Program] = [*self.ended, *self.gateways.values(), *(p for _, p in self.producers.values())]
        return [
            f"{' '.join(program.argv[1:4])} logged: {line[:3000]}"
            for program in programs
            for line in program.err.splitlines()
            if "Traceback" in line or "never retrieved" in line
        ]

    def close(self) -> None:
        for program in [*self.gateways.values(), *(program for _, program in self.producers.values())]:
            program.kill()
        super().close()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.transport.abort()
    return True


@asynccontextmanager
async def the_world(*, kind: Kind = "valkey", gateways: int = 1, **settings: str) -> AsyncIterator[World]:
    """A server and gateways that answer. settings: as TAILRACE_… of all processes, without the prefix."""
    env = {f"TAILRACE_{name.upper()}": value for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="tailrace-world-") as folder:
        world = World(Path(folder), kind=kind, gateways=gateways, settings=env)
        try:
            await world.start_server()
            for port in world.ports:
                world.start_gateway(port)
            await world.gateways_serve()
            yield world
        finally:
            world.close()
