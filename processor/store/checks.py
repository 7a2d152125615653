"""Whether a server will do: version, role, eviction, memory; and the facts that `doctor` tells."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from processor.core.errors import (
    ServerDenied,
    ServerError,
    ServerEvicting,
    ServerFull,
    ServerReadOnly,
    ServerTooOld,
    ServerUnreachable,
)
from processor.core.keys import topology_key
from processor.core.settings import Settings, shown_url
from processor.store.connection import execute

__all__ = ["Facts", "check_server", "judge", "read_facts", "size_text", "unreachable"]

_NEEDED = {"Redis": (7, 0), "Valkey": (8, 0)}
_BOOLEANS = {"0": False, "1": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a server says of itself; None where it (or its ACL) does not say."""

    name: str  # Redis, Valkey
    version: str
    role: str  # master, replica
    primary: str | None  # host:port that a replica copies
    read_only: bool  # a replica that refuses writes
    used_bytes: int | None
    max_bytes: int | None  # 0: no limit
    policy: str | None  # maxmemory-policy
    aof: bool | None
    fsync: str | None  # of the AOF: always, everysec, no
    snapshots: str | None  # `save`, empty for none
    pubsub_limit: tuple[int, int, int] | None  # hard bytes, soft bytes, seconds; 0: none
    node_max_bytes: int | None  # stream-node-max-bytes
    clients: int | None
    max_clients: int | None
    clock_skew_ms: float  # its clock minus ours; a round trip's half is uncertain

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


async def check_server(redis: Redis, settings: Settings, *, writes: bool = True) -> Facts:
    """Facts of a server that will do. fakeredis has no INFO: skip this for it.

    writes: also ask whether it takes writes now; who only reads need not know.
    Raises ServerUnreachable, ServerDenied, ServerTooOld, ServerReadOnly, ServerEvicting, ServerFull.
    """
    url = settings.redis_url or ""
    try:
        facts = await read_facts(redis)
        judge(facts, settings, writes=writes)
        if writes:
            await _ask_to_write(redis, settings, facts)
    except (OSError, RedisError) as error:
        raise _translated(error, url, settings.origin("redis_url")) from error
    return facts


async def read_facts(redis: Redis) -> Facts:
    """Raises redis-py's errors. What an ACL forbids is None."""
    before = time.time()
    told = await execute(redis, "TIME")
    after = time.time()
    seconds, micros = (int(part) for part in told) if not isinstance(told, tuple) else told
    info, config = await _info(redis), await _config(redis)
    name = "Valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "Redis"
    role = "master" if info.get("role", "master") == "master" else "replica"
    primary = f"{info['master_host']}:{info['master_port']}" if "master_host" in info else None
    read_only = config.get("replica-read-only", info.get("slave_read_only", "1")) in ("yes", "1")
    return Facts(
        name=name,
        version=info.get("valkey_version") or info.get("redis_version", "0"),
        role=role,
        primary=primary,
        read_only=role == "replica" and read_only,
        used_bytes=_int(info.get("used_memory")),
        max_bytes=_int(config.get("maxmemory", info.get("maxmemory"))),
        policy=config.get("maxmemory-policy", info.get("maxmemory_policy")),
        aof=_BOOLEANS.get(info.get("aof_enabled", "")),
        fsync=config.get("appendfsync"),
        snapshots=config.get("save"),
        pubsub_limit=_pubsub_limit(config.get("client-output-buffer-limit", "")),
        node_max_bytes=_int(config.get("stream-node-max-bytes")),
        clients=_int(info.get("connected_clients")),
        max_clients=_int(config.get("maxclients", info.get("maxclients"))),
        clock_skew_ms=round((seconds + micros / 1e6 - (before + after) / 2) * 1000, 1),
    )


def judge(facts: Facts, settings: Settings, *, writes: bool = True) -> None:
    """What these facts forbid. Raises ServerTooOld, ServerReadOnly, ServerEvicting."""
    where = shown_url(settings.redis_url or "the server")
    if facts.number < _NEEDED[facts.name]:
        raise ServerTooOld(
            f"{where} is {facts.name} {facts.version}; tailrace needs Redis 7.0 or Valkey 8 (it uses sharded PubSub).",
            remedy="Debian 12 and Ubuntu 24.04 carry Redis 7. To try tailrace without it: `tailrace up`.",
        )
    if writes and facts.read_only:
        raise _read_only(where, facts)
    if facts.policy not in (None, "noeviction") and not settings.allow_eviction:
        room = f" and {size_text(facts.max_bytes)}" if facts.max_bytes else " (and no maxmemory yet)"
        raise ServerEvicting(
            f"{where} has maxmemory-policy {facts.policy}{room}: when full it deletes runs nobody has read. Not started.",
            remedy="CONFIG SET maxmemory-policy noeviction (and in its configuration), or use a server of its own. "
            "To accept the loss: TAILRACE_ALLOW_EVICTION=1; readers then see `gap`.",
        )


def unreachable(url: str, origin: str, error: BaseException) -> ServerUnreachable:
    """Nothing answers; the message names the reason and where the address came from."""
    if origin == "default":
        source = ""
    elif origin == "argument":
        source = " The address was given to Tailrace(...)."
    elif origin.endswith(".json"):
        source = f" The address comes from {origin}: its `tailrace up` has just ended."
    else:
        source = f" The address comes from {origin}."
    variable = "variable" if origin.isupper() else "address"
    begin = "unset it and run" if origin.isupper() else "run"
    return ServerUnreachable(
        f"nothing answers at {shown_url(url)} ({_reason(error)}).{source}",
        remedy=f"For development: {begin} `tailrace up`, which brings a server.   "
        f"For your Redis: start it, or correct the {variable}: redis://user:password@host:port/0",
    )


def size_text(count: int | None) -> str:
    """Bytes for eyes: 2.0 GiB, 512 MiB."""
    if count is None:
        return "unknown"
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


async def _ask_to_write(redis: Redis, settings: Settings, facts: Facts) -> None:
    """Ask for a write that changes nothing: LPUSHX on a hash, or on no key. Role, disk and memory are judged before it.

    The server's own judgement beats any arithmetic on INFO (replicas' buffers do not count, MISCONF has many causes).
    """
    where = shown_url(settings.redis_url or "the server")
    try:
        await execute(redis, "LPUSHX", topology_key(settings.namespace), "")
    except RedisError as error:
        text = str(error)
        if "WRONGTYPE" in text:
            return
        if "READONLY" in text or "read only replica" in text:
            raise _read_only(where, facts) from error
        if "OOM" in text or "used memory" in text:
            raise ServerFull(
                f"{where} has used {size_text(facts.used_bytes)} of its {size_text(facts.max_bytes)} (maxmemory) "
                "and refuses writes.",
                remedy="Raise maxmemory (CONFIG SET maxmemory), or let ended runs go sooner: TAILRACE_RETAIN_HOURS.",
            ) from error
        if "MISCONF" in text or "NOREPLICAS" in text:
            raise ServerReadOnly(
                f"{where} refuses writes: {text}",
                remedy="Mend its disk or its replicas, then try again; until then nothing can be kept.",
            ) from error
        raise


def _read_only(where: str, facts: Facts) -> ServerReadOnly:
    of = f" of {facts.primary}" if facts.primary else ""
    there = f": redis://{facts.primary}" if facts.primary else ""
    return ServerReadOnly(
        f"{where} is a replica{of} and takes no writes.",
        remedy=f"Use the primary's address{there}. If this one should be the primary: REPLICAOF NO ONE.",
    )


def _translated(error: BaseException, url: str, origin: str) -> ServerError:
    text = str(error)
    if any(isinstance(found, (AuthenticationError, NoPermissionError)) for found in _chain(error)):
        return ServerDenied(
            f"{shown_url(url)} does not let us in: {text}",
            remedy="Give a user and a password that it knows: redis://user:password@host:port/0",
        )
    if isinstance(error, ResponseError):
        return ServerError(f"{shown_url(url)} answers: {text}")
    return unreachable(url, origin, error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: redis-py tells a refused password as a lost connection."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _reason(error: BaseException) -> str:
    """The operating system's words, which redis-py buries in a sentence of its own."""
    for found in _chain(error):
        if isinstance(found, socket.gaierror):
            return "unknown host name"
        if isinstance(found, TimeoutError | asyncio.TimeoutError):
            return "no answer in time"
        if isinstance(found, OSError) and found.errno:
            return os.strerror(found.errno).lower()
    numbered = re.match(r"Error (\d+) ", str(error))
    if numbered:
        return os.strerror(int(numbered[1])).lower()
    return str(error).rstrip(".") or type(error).__name__


async def _info(redis: Redis) -> Mapping[str, str]:
    """INFO as a flat mapping; HELLO's few members where an ACL forbids INFO (it is `@dangerous`)."""
    try:
        reply = await execute(redis, "INFO")
    except NoPermissionError:
        return await _hello(redis)
    if isinstance(reply, dict):
        return {str(name): str(value) for name, value in reply.items()}
    text = reply.decode() if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def _hello(redis: Redis) -> Mapping[str, str]:
    reply = await execute(redis, "HELLO")
    parts = [part.decode() if isinstance(part, bytes) else str(part) for part in _flat(reply)]
    told = dict(zip(parts[::2], parts[1::2], strict=False))
    return {
        "server_name": told.get("server", ""),
        "redis_version": told.get("version", "0"),
        "role": told.get("role", "master"),
    }


async def _config(redis: Redis) -> Mapping[str, str]:
    """CONFIG GET of what we look at; empty where it is forbidden or renamed, as managed servers do."""
    try:
        reply = await execute(redis, "CONFIG", "GET", "*")
    except ResponseError:
        return {}
    parts = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in _flat(reply)]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _flat(reply: Any) -> list[Any]:
    return [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else list(reply)


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _pubsub_limit(text: str) -> tuple[int, int, int] | None:
    found = re.search(r"pubsub (\d+) (\d+) (\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
