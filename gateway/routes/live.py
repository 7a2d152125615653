"""GET /live: the console's list of runs, kept current. For eyes: one look a second, no promise of completeness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from sse_starlette import EventSourceResponse

from gateway.auth import Access
from gateway.drain import watch_signals
from gateway.hub import Hub
from gateway.routes.exchange import SERVER_SECONDS, Exchange
from processor.client.session import Session
from processor.core.json import dumps
from processor.store.runs import RunState, list_runs

__all__ = ["changes", "get_live"]

PAGE = 50
LOOK_EVERY_SECONDS = 1.0
DRAIN_LOOKS = 4  # for each look at the list, so that Ctrl-C ends it within a second in any server
HEARTBEAT = b":\n"


async def get_live(exchange: Exchange) -> None:
    """Unnamed frames `{"runs": […]}`: first the newest page, then the runs that changed, newest change first."""
    until = await exchange.permit(Access("list"))
    session = await exchange.session()
    async with asyncio.timeout(SERVER_SECONDS):
        first = await _page(session)  # what is wrong with the server is told by a status while it still can be
    if exchange.method == "HEAD":
        await exchange.answer_empty(200, [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")])
        return
    watch_signals()
    response = EventSourceResponse(_frames(session, first, until), ping=0, sep="\n")
    await response(exchange.scope, exchange.receive, exchange.send)


async def _page(session: Session) -> list[RunState]:
    states, _ = await list_runs(session, limit=PAGE)
    return states


def changes(before: list[RunState], now: list[RunState]) -> list[RunState]:
    """The runs of the page now that are new in it or not as they were."""
    known = {state.run: state for state in before}
    return [state for state in now if known.get(state.run) != state]


async def _frames(session: Session, first: list[RunState], until: datetime | None) -> AsyncIterator[bytes]:
    """until: when the permission ends; the next request is told."""
    page = first
    yield _frame(page)
    silent = 0.0
    hub = Hub.of_loop(session.settings.heartbeat_seconds)
    while True:
        for _ in range(DRAIN_LOOKS):
            await asyncio.sleep(LOOK_EVERY_SECONDS / DRAIN_LOOKS)
            if hub.draining or (until is not None and until <= datetime.now(UTC)):
                return
        silent += LOOK_EVERY_SECONDS
        before, page = page, await _page(session)
        changed = changes(before, page)
        if changed:
            silent = 0.0
            yield _frame(changed)
        elif silent >= session.settings.heartbeat_seconds:
            silent = 0.0
            yield HEARTBEAT


def _frame(states: list[RunState]) -> bytes:
    return b"data: %b\n\n" % dumps({"runs": [state.json() for state in states]})
