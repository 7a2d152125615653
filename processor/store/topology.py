"""How many partitions a namespace has: `<partitions> <nonce>`, kept once for the namespace and again in each partition.

The nonce tells a namespace that was deleted and made anew from the one that a process knew.
"""

from __future__ import annotations

import secrets

from redis.asyncio import Redis

from processor.core.errors import ServerError
from processor.core.keys import Keyspace, PartitionKeys, topology_key
from processor.store.connection import execute

__all__ = ["create_topology", "namespaces", "read_topology", "settle_layout"]


async def read_topology(redis: Redis, namespace: str) -> Keyspace | None:
    """None if the namespace was never created (or its topology is gone)."""
    layout = await execute(redis, "HGET", topology_key(namespace), "layout")
    return Keyspace(namespace, layout.decode()) if layout else None


async def create_topology(redis: Redis, namespace: str, partitions: int) -> Keyspace:
    """The namespace's topology; what is missing of it is created. Only libraries and commands do this, HTTP never."""
    known = await read_topology(redis, namespace)
    if known is not None:
        return known
    # A topology that was lost while its partitions were not: their layout counts.
    layout = await execute(redis, "HGET", PartitionKeys(namespace, 0).meta, "layout")
    text = layout.decode() if layout else f"{partitions} {secrets.token_hex(8)}"
    await execute(redis, "HSETNX", topology_key(namespace), "layout", text)
    created = await read_topology(redis, namespace)
    if created is None:
        raise ServerError(f"the topology of namespace {namespace} was written and is gone again.")
    return created


async def settle_layout(redis: Redis, known: Keyspace, partition: int, answered: str) -> Keyspace:
    """After `append` answered `topology`: the keyspace to go on with, its partition having the layout. Raises ServerError."""
    current = await create_topology(redis, known.namespace, len(known.partitions))
    if not answered:
        await execute(
            redis, "HSETNX", current.partitions[partition % len(current.partitions)].meta, "layout", current.layout
        )
    elif answered != current.layout and current.layout == known.layout:
        raise ServerError(
            f"partition {partition} of namespace {known.namespace} has layout {answered!r}, its topology {current.layout!r}.",
            remedy="Two namespaces were mixed, by a restore or by hand: nothing is written until one of them is removed.",
        )
    return current


async def namespaces(redis: Redis) -> list[str]:
    """Names of all namespaces, sorted. Walks the keyspace: for people and tools."""
    found = set()
    async for key in redis.scan_iter(match="tr:{*}:topology", count=1000):
        text = key.decode()
        found.add(text[len("tr:{") : -len("}:topology")])
    return sorted(found)
