"""GET /runs/{run}/events as pages and lines: the forms of a feed that end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from gateway.core.negotiate import Form, choose
from gateway.core.problems import Problem
from gateway.routes.exchange import SERVER_SECONDS, Exchange, known, unknown_run
from processor.core.cursor import ZERO, FeedId, parse_cursor
from processor.core.errors import ServerUnreachable
from processor.core.events import envelope
from processor.core.json import dumps
from processor.core.splice import Entry, Gap, Look, Standing, explain, go_on
from processor.observe import metrics
from processor.store.feeds import FIRST_PAGE, Feeds, next_page
from processor.store.runs import read_state

__all__ = ["Cursor", "cursor_of", "form_of", "get_lines", "get_page", "wait_for"]

MAX_WAIT_SECONDS = 60
MAX_PAGE_BYTES = 1024 * 1024  # of payloads; a page of 1,000 events could have 64 MB, and a client that never reads it
LOOK_EVERY_SECONDS = 0.2  # while a request waits for its run: one command, and no channel for a run that may never be


class Cursor(NamedTuple):
    """What a reader has. told: it came in Last-Event-ID, from a client that goes on by itself and reads no problem."""

    id: FeedId
    told: bool


def form_of(exchange: Exchange) -> Form:
    """Raises Problem not-acceptable."""
    accept = exchange.header("accept")
    form = choose(accept)
    if form is None:
        raise Problem(
            "not-acceptable",
            f"Accept is {str(accept)[:200]!r}.",
            field="Accept",
            value=accept,
            remedy=f"Accept one of {', '.join(form.value for form in Form)}.",
        )
    return form


def cursor_of(exchange: Exchange) -> Cursor:
    """The header wins, and `after` is then not even parsed. Raises BadCursor or Problem bad-cursor."""
    headers = [value for value in exchange.headers("last-event-id") if value]
    if headers:
        return Cursor(parse_cursor(", ".join(headers), field="Last-Event-ID"), True)
    return Cursor(parse_cursor(exchange.parameter("after", "bad-cursor")), False)


async def wait_for(exchange: Exchange, run: str) -> None:
    """As ?wait= asks: until the run appears, some seconds at most. Raises Problem: bad-query, unknown-run."""
    text = exchange.parameter("wait")
    if text is None:
        return
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= MAX_WAIT_SECONDS):
        raise Problem(
            "bad-query",
            f"wait is {text[:100]!r}.",
            field="wait",
            value=text,
            remedy=f"Give whole seconds, {MAX_WAIT_SECONDS} at most.",
        )
    deadline = asyncio.get_running_loop().time() + int(text)
    while await exchange.state(run) is None:
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise unknown_run(run)
        await asyncio.sleep(min(LOOK_EVERY_SECONDS, left))


class _Start(NamedTuple):
    """Where a reading begins: the run as it stood, the gap before its first events, and these."""

    look: Look
    gap: Gap | None
    entries: Sequence[Entry]

    @property
    def over(self) -> bool:
        """Nothing is left and nothing will come."""
        return not self.entries and self.gap is None and self.look.ended is not None


async def _start(exchange: Exchange, feeds: Feeds, run: str, cursor: Cursor, count: int) -> _Start:
    """Reads from the cursor inclusive. Raises Problem: unknown-run, cursor-beyond-tail."""
    async with asyncio.timeout(SERVER_SECONDS):
        look = await feeds.look(run)
        if look.standing is Standing.UNKNOWN:
            raise unknown_run(run)
        tail = look.position
        if cursor.id.seq > tail.seq and not cursor.told:
            raise Problem(
                "cursor-beyond-tail",
                f"after is {cursor.id}, and the run's last event is {tail}.",
                field="after",
                value=str(cursor.id),
                remedy="Begin again with after=0.",
                extra={"tail": str(tail)},
            )
        # one more tells whether the feed goes on; the cursor's own event comes besides
        entries = await feeds.page(run, cursor.id.seq, count + 1 + (cursor.id != ZERO))
        found = go_on(cursor.id, entries)
        if found is None:
            found = explain(cursor.id, look) or ()
        if isinstance(found, Gap) and found.restart and look.standing is not Standing.EXPIRED:
            entries = await feeds.page(run, 1, count + 1)
    if not isinstance(found, Gap):
        return _Start(look, None, found)
    metrics.gaps_told_total.labels(reason=found.reason).inc()
    return _Start(look, found, entries)


async def get_page(exchange: Exchange, run: str, cursor: Cursor) -> None:
    """One page as a JSON object; 204 where the reader has all of a run that has ended."""
    limit = exchange.whole("limit", "bad-limit", 100, 1000)
    session = await exchange.session()
    feeds = Feeds(session)
    start = await _start(exchange, feeds, run, cursor, min(limit, FIRST_PAGE))
    if start.over:
        await exchange.answer_empty(204)
        return
    shown, more = await _fill(feeds, run, start.entries, limit)
    members = [b'"run":"%b"' % run.encode(), b'"status":%b' % dumps(start.look.status)]
    members.append(b'"events":[%b]' % b",".join(envelope(run, id, payload) for id, payload in shown))
    following = str(shown[-1][0]) if more else None
    members.append(b'"next":%b' % dumps(following))
    tail = max([start.look.position, *(id for id, _ in shown[-1:])])
    members.append(b'"tail":%b' % dumps(str(tail) if tail.seq else None))
    if start.gap is not None:
        members.append(b'"gap":%b' % await _gap(exchange, run, start.gap))
    await exchange.answer(200, b"{%b}" % b",".join(members), headers=[(b"cache-control", b"no-cache")])


async def _fill(feeds: Feeds, run: str, entries: Sequence[Entry], limit: int) -> tuple[Sequence[Entry], bool]:
    """A page that begins with what `_start` read, and whether the feed goes on behind it.

    Read in portions: nothing is known of the events' size before.
    """
    found = list(entries)
    more = len(found) > min(limit, FIRST_PAGE)
    size = sum(len(payload) for _, payload in found)
    while more and len(found) <= limit and size < MAX_PAGE_BYTES:
        count = min(next_page(found), limit + 1 - len(found))
        async with asyncio.timeout(SERVER_SECONDS):
            further = go_on(found[-1][0], await feeds.page(run, found[-1][0].seq, count + 1))
        if further is None or isinstance(further, Gap):
            break  # trimmed, expired or rewritten meanwhile: the next request is told
        found += further
        size += sum(len(payload) for _, payload in further)
        more = len(further) == count
    shown, size = 0, 0
    for _, payload in found[:limit]:
        size += len(payload)
        if shown and size > MAX_PAGE_BYTES:
            break
        shown += 1
    return found[:shown], more or len(found) > shown


async def _gap(exchange: Exchange, run: str, gap: Gap) -> bytes:
    session = await exchange.session()
    async with asyncio.timeout(SERVER_SECONDS):
        state = known(await read_state(session, run), run)
    return dumps({"from": gap.first, "to": gap.last, "reason": gap.reason, "snapshot": state.json()})


async def get_lines(exchange: Exchange, run: str, cursor: Cursor) -> None:
    """All envelopes from the cursor to the tail at the time of the request, a line each."""
    session = await exchange.session()
    feeds = Feeds(session)
    start = await _start(exchange, feeds, run, cursor, FIRST_PAGE)
    if start.over:
        await exchange.answer_empty(204)
        return
    first = b""
    if start.gap is not None:
        first = b'{"type":"tailrace.gap","data":%b}\n' % await _gap(exchange, run, start.gap)
    head = [
        (b"content-type", Form.NDJSON.value.encode()),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": head})
    if exchange.method == "HEAD":
        await exchange.send({"type": "http.response.body", "body": b""})
        return
    last, entries, place = start.look.position.seq, start.entries, ZERO
    while entries:
        lines = [envelope(run, id, payload) + b"\n" for id, payload in entries if id.seq <= last]
        await exchange.send({"type": "http.response.body", "body": first + b"".join(lines), "more_body": True})
        first = b""
        place = entries[-1][0]
        entries = () if place.seq >= last else await _further(feeds, run, place, next_page(entries), last)
    await exchange.send({"type": "http.response.body", "body": first})


async def _further(feeds: Feeds, run: str, place: FeedId, count: int, last: int) -> Sequence[Entry]:
    """The next entries behind a place. Raises ServerUnreachable where they are not what followed when the answer began."""
    async with asyncio.timeout(SERVER_SECONDS):
        found = go_on(place, await feeds.page(run, place.seq, count + 1, last))
    if not found or isinstance(found, Gap):
        # trimmed, expired or rewritten meanwhile: the answer breaks off, and the next request is told
        raise ServerUnreachable(f"run {run}: what follows {place} is gone.")
    return found
