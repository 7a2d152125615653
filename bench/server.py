"""The server that a bench measures with: an embedded Valkey of its own in a temporary folder, never anybody's data."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from processor.store.embedded import Aof, EmbeddedServer

__all__ = ["Served", "running_server", "served_by_tcp"]

# A fork in the middle of a round says nothing about tailrace.
_NO_REWRITE: Final = "auto-aof-rewrite-percentage 0"


@contextmanager
def running_server(aof: Aof) -> Iterator[str]:
    """Its URL. No rewrite of the AOF comes in between."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedServer(folder, aof=aof, extra=[_NO_REWRITE]) as server,
    ):
        yield server.url


@dataclass(frozen=True, slots=True)
class Served:
    """A server that other libraries reach as well."""

    url: str
    pid: int


@contextmanager
def served_by_tcp(aof: Aof, *, jemalloc: bool = False) -> Iterator[Served]:
    """The same on a loopback port, since not every library speaks to a Unix socket. jemalloc: as EmbeddedServer has it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedServer(
            folder, aof=aof, jemalloc=jemalloc, extra=[_NO_REWRITE, "bind 127.0.0.1", f"port {port}"]
        ) as server,
    ):
        assert server.pid is not None
        yield Served(f"redis://127.0.0.1:{port}/0", server.pid)
