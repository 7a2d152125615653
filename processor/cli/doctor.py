"""`tailrace doctor`: whether everything around tailrace will do, with the remedy where it will not."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import typer
from redis.exceptions import RedisError
from rich.text import Text

from processor.cli.exits import FAILED
from processor.cli.opening import checked, wait_for
from processor.cli.options import own_version
from processor.cli.output import Output, output_of
from processor.cli.settings import slips
from processor.core.errors import NotConfigured, ServerError, SettingsError
from processor.core.settings import Settings, shown_url
from processor.store.checks import Facts, read_facts, size_text
from processor.store.connection import Address, commands
from processor.store.topology import read_topology

__all__ = ["doctor"]

PUBSUB_BYTES = 32 << 20  # the servers' own default; below it a gateway that pauses for a second is cut off
NODE_BYTES = 4096  # the servers' own default; above it reading one entry unpacks ever more
CLOCK_MS = 1000.0  # feed IDs carry the server's time: a second of skew shows in replays and in due times
CLIENTS = 0.8  # of maxclients


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str  # one word
    status: Literal["ok", "warn", "FAIL"]
    detail: str
    remedy: str = ""


def doctor(ctx: typer.Context) -> None:
    """Server, persistence, eviction, buffers, clock, versions. Ends with 1 if something must be mended."""
    out = output_of(ctx)
    findings = [_versions(), *(Finding("settings", "warn", slip, "Correct its name, or unset it.") for slip in slips())]
    try:
        settings = out.options.settings()
    except SettingsError as error:
        findings.append(Finding("settings", "FAIL", error.message, error.remedy))
    else:
        findings += wait_for(_look(settings))
    for finding in findings:
        _tell(out, finding)
    raise typer.Exit(FAILED if any(finding.status == "FAIL" for finding in findings) else 0)


def _tell(out: Output, finding: Finding) -> None:
    if not out.pretty:
        remedy = {"remedy": finding.remedy} if finding.remedy else {}
        out.record({"check": finding.check, "status": finding.status, "detail": finding.detail, **remedy})
        return
    style = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}[finding.status]
    text = Text.assemble("doctor: ", (f"{finding.status:<4}", style), f" {finding.check:<12}{finding.detail}")
    if finding.remedy:
        text.append(f"\n  {finding.remedy}")
    out.line(text)


def _versions() -> Finding:
    parts = ", ".join(f"{name} {version(name)}" for name in ("redis", "hiredis", "uvicorn", "starlette"))
    return Finding("versions", "ok", f"tailrace {own_version()}, Python {platform.python_version()}, {parts}")


async def _look(settings: Settings) -> list[Finding]:
    """What can be said of the server, as far as it lets us."""
    try:
        async with checked(settings, writes=True) as redis:
            facts = await read_facts(redis)
            namespace = await read_topology(redis, settings.namespace)
    except (ServerError, NotConfigured) as error:
        found = [Finding(_check_of(error), "FAIL", error.message, error.remedy)]
        facts_anyway = await _facts(settings)
        return found + (list(judged(facts_anyway, settings)) if facts_anyway else [])
    found = list(judged(facts, settings))
    if namespace is None:
        said = f"{settings.namespace!r} does not exist yet; the first run makes it"
    else:
        said = f"{settings.namespace!r} has {len(namespace.partitions)} partitions"
    return [*found, Finding("namespace", "ok", said)]


async def _facts(settings: Settings) -> Facts | None:
    """Facts of a server that was refused for one reason: the others are told at the same time."""
    if settings.redis_url is None:
        return None
    redis = commands(Address.parse(settings.redis_url))
    try:
        return await read_facts(redis)
    except (OSError, RedisError):
        return None  # it does not answer, which has been told
    finally:
        await redis.aclose(close_connection_pool=True)


def _check_of(error: Exception) -> str:
    code = getattr(error, "code", "")
    return {"server-evicting": "eviction", "server-full": "memory", "server-read-only": "writes"}.get(code, "server")


def judged(facts: Facts, settings: Settings) -> Iterator[Finding]:
    """One finding for each thing that a server tells of itself; what it does not tell is left out."""
    where = shown_url(settings.redis_url or "")
    yield Finding("server", "ok", f"{facts.name} {facts.version} at {where}, from {settings.origin('redis_url')}")
    yield from _persistence(facts)
    if facts.policy == "noeviction":
        yield Finding("eviction", "ok", "noeviction")
    elif facts.policy is not None and settings.allow_eviction:
        yield Finding(
            "eviction",
            "warn",
            f"{facts.policy}, accepted by TAILRACE_ALLOW_EVICTION: when full it deletes runs nobody has read",
            "CONFIG SET maxmemory-policy noeviction",
        )
    yield from _memory(facts)
    yield from _buffers(facts)
    yield from _clock(facts)


def _persistence(facts: Facts) -> Iterator[Finding]:
    if facts.aof is None:
        return
    if not facts.aof and not facts.snapshots:
        yield Finding(
            "persistence",
            "warn",
            "nothing is written to disk: when the server ends, all runs are gone",
            "appendonly yes (CONFIG SET appendonly yes, CONFIG REWRITE)",
        )
    elif not facts.aof:
        yield Finding(
            "persistence",
            "warn",
            f"snapshots only (save {facts.snapshots}): a crash loses all since the last one",
            "appendonly yes (CONFIG SET appendonly yes, CONFIG REWRITE)",
        )
    elif facts.fsync == "no":
        yield Finding(
            "persistence",
            "warn",
            "AOF, flushed when the system likes: a machine's crash loses up to 30 s",
            "CONFIG SET appendfsync everysec",
        )
    else:
        loss = (
            "no acknowledged event"
            if facts.fsync == "always"
            else "at most about 1 s, which living producers send again"
        )
        yield Finding("persistence", "ok", f"AOF, {facts.fsync or 'everysec'}: a crash loses {loss}")


def _memory(facts: Facts) -> Iterator[Finding]:
    if facts.used_bytes is None:
        return
    if not facts.max_bytes:
        yield Finding("memory", "ok", f"{size_text(facts.used_bytes)} used, no maxmemory")
        return
    share = facts.used_bytes / facts.max_bytes
    said = f"{size_text(facts.used_bytes)} of {size_text(facts.max_bytes)} used ({share:.0%})"
    if share < 0.9:
        yield Finding("memory", "ok", said)
    elif share < 1:
        yield Finding("memory", "warn", said, "Raise maxmemory, or let ended runs go sooner: TAILRACE_RETAIN_HOURS")


def _buffers(facts: Facts) -> Iterator[Finding]:
    if facts.pubsub_limit is not None:
        hard, soft, seconds = facts.pubsub_limit
        said = f"pubsub {size_text(hard)}, {size_text(soft)} for {seconds} s" if hard else "pubsub without limit"
        low = 0 < hard < PUBSUB_BYTES
        remedy = "CONFIG SET client-output-buffer-limit 'pubsub 64mb 16mb 60'" if low else ""
        yield Finding("buffers", "warn" if low else "ok", said, remedy)
    if facts.node_max_bytes is not None and not 0 < facts.node_max_bytes <= NODE_BYTES:
        yield Finding(
            "streams",
            "warn",
            f"stream-node-max-bytes is {facts.node_max_bytes}: each read of a feed unpacks that much",
            "CONFIG SET stream-node-max-bytes 2048",
        )
    if facts.clients is not None and facts.max_clients and facts.clients > CLIENTS * facts.max_clients:
        yield Finding("clients", "warn", f"{facts.clients} of {facts.max_clients} connections", "Raise maxclients")


def _clock(facts: Facts) -> Iterator[Finding]:
    skew = facts.clock_skew_ms
    if abs(skew) < CLOCK_MS:
        yield Finding("clock", "ok", f"{abs(skew):.0f} ms {'ahead' if skew > 0 else 'behind'}")
        return
    yield Finding(
        "clock",
        "warn",
        f"the server's clock is {abs(skew) / 1000:.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
        "Synchronise both (NTP): times of events are the server's",
    )
