"""Groups of reactions: what each has still to do, as one number for autoscalers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from gateway.auth import Access
from gateway.core.problems import Problem
from gateway.routes.exchange import SERVER_SECONDS, Exchange
from processor.core.names import check_name
from processor.store.standings import Groups, Standing, read_groups

__all__ = ["get_group", "get_groups"]


async def get_group(exchange: Exchange, group: str) -> None:
    """One group. Raises Problem unknown-group, BadName."""
    check_name(group, "group", field="group")
    await exchange.permit(Access("list"))
    found = (await _read(exchange, [group])).all
    if not found:
        raise Problem(
            "unknown-group",
            f"There is no group {group}.",
            field="group",
            value=group,
            remedy="Check its name; a process with its reactions makes it when it begins.",
        )
    await exchange.answer_json(200, _json(found[0]))


async def get_groups(exchange: Exchange) -> None:
    """All groups by name."""
    await exchange.permit(Access("list"))
    found = await _read(exchange, None)
    await exchange.answer_json(200, {"groups": [_json(standing) for standing in found.all]})


async def _read(exchange: Exchange, names: Iterable[str] | None) -> Groups:
    session = await exchange.session()
    async with asyncio.timeout(SERVER_SECONDS):
        return await read_groups(session, names)


def _json(standing: Standing) -> dict[str, Any]:
    """The names that `tailrace groups list` has too."""
    return {
        "group": standing.group.name,
        "backlog": standing.backlog,
        "lag": standing.lag,
        "pending": standing.pending,
        "delayed": standing.delayed,
        "oldest_seconds": round(standing.oldest_ms / 1000, 1),
        "members": len(standing.members),
    }
