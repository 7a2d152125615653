"""GET /runs/{run}/events as pages and lines, WIRE 4: cursors, forms, gaps, ends."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from processor.client.tailrace import Tailrace
from tests.gateway.answers import NDJSON, lines_of, post, problem_of
from tests.support.servers import TestServer


async def page(http: httpx.AsyncClient, run: str, **parameters: str) -> dict[str, Any]:
    response = await http.get(f"/runs/{run}/events", params=parameters)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_page_has_envelopes_and_where_to_go_on(http: httpx.AsyncClient) -> None:
    """Members in WIRE's order; next is null where the tail is reached."""
    ids = await post(http, "r1", "a", "b", "c")
    first = await page(http, "r1", limit="2")
    assert list(first) == ["run", "status", "events", "next", "tail"]
    assert (first["run"], first["status"], first["next"], first["tail"]) == ("r1", "running", ids[1], ids[2])
    assert [list(event) for event in first["events"]] == [["id", "run", "type", "data"]] * 2
    second = await page(http, "r1", limit="2", after=first["next"])
    assert ([event["id"] for event in second["events"]], second["next"]) == ([ids[2]], None)
    assert (await page(http, "r1", after=ids[2]))["events"] == []
    assert (await page(http, "r1", limit="3"))["next"] is None


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 64, 65, 100, 1000])
async def test_next_leads_through_the_whole_feed(http: httpx.AsyncClient, limit: int) -> None:
    """Each event once, from a cursor as from the beginning; only the page that reaches the tail has no next."""
    ids = await post(http, "r1", *["a"] * 14) if limit < 10 else await post(http, "r1", *["a"] * 200)
    got: list[str] = []
    after = "0"
    while True:
        answer = await page(http, "r1", limit=str(limit), after=after)
        got += [event["id"] for event in answer["events"]]
        assert len(answer["events"]) <= limit
        assert (answer["next"] is None) == (got == ids)
        if answer["next"] is None:
            break
        after = answer["next"]
        assert after == got[-1]


async def test_a_page_is_bounded_in_bytes(http: httpx.AsyncClient) -> None:
    """1 MiB of payloads, whatever the limit; next goes on."""
    large = {"type": "a", "data": "x" * 60_000}
    ids: list[str] = []
    for _ in range(6):
        answer = (await http.post("/runs/r1/events", json=[large] * 15)).json()
        ids += [result["id"] for result in answer["results"]]
    got: list[str] = []
    after = "0"
    while after:
        response = await http.get("/runs/r1/events", params={"limit": "1000", "after": after})
        assert len(response.content) < 1_100_000
        got += [event["id"] for event in response.json()["events"]]
        after = response.json()["next"]
    assert got == ids


async def test_envelopes_keep_absent_members_out(http: httpx.AsyncClient) -> None:
    """id run type attempt? labels? traceparent? data, the same bytes in both forms."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"type": "a", "labels": {"x": "1"}, "traceparent": trace, "data": [1]}
    await http.post("/runs/r1/events", json=body)
    line = (await http.get("/runs/r1/events", headers=NDJSON)).content
    assert list(json.loads(line)) == ["id", "run", "type", "labels", "traceparent", "data"]
    assert line.rstrip(b"\n") in (await http.get("/runs/r1/events")).content


async def test_lines_are_the_whole_feed(http: httpx.AsyncClient) -> None:
    """From the cursor to the tail, over many pages, then the answer ends."""
    for _ in range(4):
        ids = await post(http, "r1", *["a"] * 256)
    lines = await lines_of(http, "r1")
    assert [line["id"].split("-")[0] for line in lines] == [str(n) for n in range(1, 1025)]
    assert [line["id"] for line in await lines_of(http, "r1", after=ids[0])] == ids[1:]
    response = await http.get("/runs/r1/events", headers=NDJSON)
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/x-ndjson;q=0.5, text/event-stream;q=0.4", "application/x-ndjson"),
    ],
)
async def test_the_form_follows_accept(http: httpx.AsyncClient, accept: str | None, media: str) -> None:
    """Absent or `*/*` is JSON."""
    await post(http, "r1", "a")
    del http.headers["Accept"]
    response = await http.get("/runs/r1/events", headers={} if accept is None else {"Accept": accept})
    assert response.headers["content-type"] == media


async def test_what_fits_nothing_is_406(http: httpx.AsyncClient) -> None:
    """Also for a run that nobody knows."""
    problem = problem_of(await http.get("/runs/r1/events", headers={"Accept": "text/html"}), 406, "not-acceptable")
    assert (problem["field"], problem["value"]) == ("Accept", "text/html")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_an_unknown_run_is_404_in_every_form(http: httpx.AsyncClient, accept: str) -> None:
    """And looking does not make it."""
    for _ in range(2):
        problem = problem_of(await http.get("/runs/r1/events", headers={"Accept": accept}), 404, "unknown-run")
        assert problem["value"] == "r1"


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
@pytest.mark.parametrize(
    "cursor",
    [
        *("1", "$", "now", "-1", "0-0", "00", "0-1", "01-5", "1-", "-5", "1-5-5", " 1-5", "1-5 ", "1_0-5", "١-5"),
        *("12345678901234567-1", "1-12345678901234567", "1795506276265-0x", "+1-5"),
    ],
)
async def test_other_cursors_are_refused(http: httpx.AsyncClient, accept: str, cursor: str) -> None:
    """400 bad-cursor names where it stood, in `after` as in the header."""
    await post(http, "r1", "a")
    response = await http.get("/runs/r1/events", params={"after": cursor}, headers={"Accept": accept})
    problem = problem_of(response, 400, "bad-cursor")
    assert (problem["field"], problem["value"]) == ("after", cursor)
    if cursor.isascii() and cursor == cursor.strip():
        response = await http.get("/runs/r1/events", headers={"Accept": accept, "Last-Event-ID": cursor})
        assert problem_of(response, 400, "bad-cursor")["field"] == "Last-Event-ID"


async def test_the_header_wins_and_after_is_not_parsed(http: httpx.AsyncClient) -> None:
    """Absent and empty mean the beginning."""
    ids = await post(http, "r1", "a", "b", "c")

    async def seen(query: str, header: str | None) -> list[str]:
        headers = {} if header is None else {"Last-Event-ID": header}
        response = await http.get(f"/runs/r1/events{query}", headers=headers)
        return [event["id"] for event in response.json()["events"]]

    assert await seen("?after=nonsense", ids[1]) == ids[2:]
    assert await seen("?after=a&after=b", ids[1]) == ids[2:]
    assert await seen(f"?after={ids[1]}", "0") == ids
    assert await seen(f"?after={ids[1]}", "") == ids[2:]
    assert await seen("?after=", None) == ids
    assert await seen("?after=0", None) == ids
    assert await seen("?unknown=1&limit=", None) == ids


async def test_after_twice_is_refused(http: httpx.AsyncClient) -> None:
    """400 bad-cursor."""
    await post(http, "r1", "a")
    problem_of(await http.get("/runs/r1/events?after=0&after=0"), 400, "bad-cursor")


async def test_a_cursor_beyond_the_tail(http: httpx.AsyncClient) -> None:
    """In `after` 400 with the tail and the remedy; in the header the feed was rewritten."""
    (only,) = await post(http, "r1", "a")
    problem = problem_of(await http.get("/runs/r1/events?after=5-1795506276265"), 400, "cursor-beyond-tail")
    assert problem["tail"] == only
    assert "after=0" in problem["remedy"]
    response = await http.get("/runs/r1/events", headers={"Last-Event-ID": "5-1795506276265"})
    answer = response.json()
    assert {name: answer["gap"][name] for name in ("from", "to", "reason")} == {
        "from": 1,
        "to": 5,
        "reason": "rewritten",
    }
    assert [event["id"] for event in answer["events"]] == [only]


async def test_another_ms_is_a_rewritten_feed(http: httpx.AsyncClient) -> None:
    """The gap comes first and the feed follows from its first event; the snapshot is the run's state."""
    ids = await post(http, "r1", "a", "b", "c")
    wrong = f"2-{int(ids[1].split('-')[1]) - 7}"
    answer = await page(http, "r1", after=wrong)
    assert (answer["gap"]["from"], answer["gap"]["to"], answer["gap"]["reason"]) == (1, 2, "rewritten")
    assert answer["gap"]["snapshot"] == (await http.get("/runs/r1")).json()
    assert [event["id"] for event in answer["events"]] == ids
    gap, *events = await lines_of(http, "r1", after=wrong)
    assert list(gap) == ["type", "data"]
    assert (gap["type"], gap["data"]["reason"]) == ("tailrace.gap", "rewritten")
    assert [event["id"] for event in events] == ids


async def test_trimmed_events_are_told(http: httpx.AsyncClient, tail: Tailrace, server: TestServer) -> None:
    """From the next number due to the last one missing; directly below the first entry nothing is missing."""
    ids = await post(http, "r1", *["a"] * 10)
    session = await tail.session()
    client = server.client()
    client.xtrim(session.keys.of("r1").feed("r1"), minid="5", approximate=False)
    client.close()
    answer = await page(http, "r1", after=ids[1])
    assert (answer["gap"]["from"], answer["gap"]["to"], answer["gap"]["reason"]) == (3, 4, "trimmed")
    assert [event["id"] for event in answer["events"]] == ids[4:]
    assert (await page(http, "r1"))["gap"]["from"] == 1
    assert "gap" not in await page(http, "r1", after=ids[3])
    gap, *events = await lines_of(http, "r1")
    assert (gap["data"]["from"], gap["data"]["to"], len(events)) == (1, 4, 6)


async def test_a_tombstone_is_told(http: httpx.AsyncClient, tail: Tailrace, server: TestServer) -> None:
    """Gap expired from 1 to the tail, no events; nothing is said to who has all."""
    ids = await post(http, "r1", "a", "b", "run.finished")
    session = await tail.session()
    client = server.client()
    client.delete(session.keys.of("r1").feed("r1"))
    client.close()
    answer = await page(http, "r1")
    assert (answer["status"], answer["events"], answer["next"], answer["tail"]) == ("succeeded", [], None, ids[2])
    assert (answer["gap"]["from"], answer["gap"]["to"], answer["gap"]["reason"]) == (1, 3, "expired")
    assert (await page(http, "r1", after=ids[0]))["gap"]["from"] == 2
    assert [line["type"] for line in await lines_of(http, "r1")] == ["tailrace.gap"]
    assert (await http.get("/runs/r1/events", params={"after": ids[2]})).status_code == 204


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_who_has_all_of_an_ended_run_gets_204(http: httpx.AsyncClient, accept: str) -> None:
    """Number and ms equal to the tail, in the header as in `after`; without body."""
    ids = await post(http, "r1", "a", "run.finished")
    for query, headers in [({"after": ids[1]}, {}), ({}, {"Last-Event-ID": ids[1]})]:
        response = await http.get("/runs/r1/events", params=query, headers={"Accept": accept, **headers})
        assert (response.status_code, response.content) == (204, b"")
    assert (await http.get("/runs/r1/events", params={"after": ids[0]})).status_code == 200


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "1e2", "٣", "99999999999"])
async def test_bad_limits(http: httpx.AsyncClient, limit: str) -> None:
    """1 to 1000, in plain digits."""
    await post(http, "r1", "a")
    problem = problem_of(await http.get("/runs/r1/events", params={"limit": limit}), 400, "bad-limit")
    assert (problem["field"], problem["value"]) == ("limit", limit)
    problem_of(await http.get("/runs/r1/events?limit=1&limit=2"), 400, "bad-limit")


async def test_a_page_has_100_events_by_default_and_1000_at_most(http: httpx.AsyncClient) -> None:
    """next says where to go on."""
    for _ in range(4):
        await post(http, "r1", *["a"] * 256)
    first = await page(http, "r1")
    assert (len(first["events"]), first["next"]) == (100, first["events"][-1]["id"])
    assert len((await page(http, "r1", limit="1000"))["events"]) == 1000


@pytest.mark.parametrize("wait", ["61", "-1", "x", "1.5", "9999"])
async def test_bad_waits(http: httpx.AsyncClient, wait: str) -> None:
    """Whole seconds, 60 at most."""
    assert problem_of(await http.get(f"/runs/r1/events?wait={wait}"), 400, "bad-query")["field"] == "wait"


async def test_wait_waits_for_the_run_to_appear(http: httpx.AsyncClient) -> None:
    """In any form; a run that does not come is 404 at the end."""
    waiting = asyncio.ensure_future(http.get("/runs/r1/events?wait=30"))
    await http.get("/runs/r1")  # the waiting request is under way
    await post(http, "r1", "a")
    assert len((await waiting).json()["events"]) == 1
    problem_of(await http.get("/runs/r2/events?wait=0"), 404, "unknown-run")
    problem_of(await http.get("/runs/r2/events?wait=1"), 404, "unknown-run")


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_head_answers_as_get_without_the_body(http: httpx.AsyncClient, accept: str) -> None:
    """At once, also for SSE."""
    await post(http, "r1", "a")
    response = await http.head("/runs/r1/events", headers={"Accept": accept})
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"] == accept
    assert (await http.head("/runs/r2/events", headers={"Accept": accept})).status_code == 404


async def test_a_post_into_a_mistyped_run_leaves_no_trace(http: httpx.AsyncClient) -> None:
    """A GET or a refused POST never creates anything."""
    await http.get("/runs/r1/events?wait=0")
    await http.post("/runs/r1/cancel")
    await http.post("/runs/r1/inputs", json={"value": 1})
    assert (await http.get("/runs")).json()["runs"] == []
