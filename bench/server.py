"""The server that a bench measures with: an embedded Valkey of its own in a temporary folder, never anybody's data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from processor.store.embedded import Aof, EmbeddedServer

__all__ = ["running_server"]


@contextmanager
def running_server(aof: Aof) -> Iterator[str]:
    """Its URL. No rewrite of the AOF comes in between: a fork in the middle of a round says nothing about tailrace."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        EmbeddedServer(folder, aof=aof, extra=["auto-aof-rewrite-percentage 0"]) as server,
    ):
        yield server.url
