"""POST /runs/{run}/events, WIRE 2: what is taken, what is answered, what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.app import standalone
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.gateway.answers import problem_of
from tests.gateway.serving import Way, serving
from tests.support.servers import TestServer


def numbered(number: int, producer: str = "p1", prev: int | None = None) -> dict[str, str]:
    headers = {"Tailrace-Producer": producer, "Tailrace-Number": str(number)}
    return headers if prev is None else {**headers, "Tailrace-Prev": str(prev)}


async def post(http: httpx.AsyncClient, run: str, *types: str, **headers: str) -> httpx.Response:
    return await http.post(f"/runs/{run}/events", json=[{"type": t} for t in types], headers=headers)


async def envelopes(http: httpx.AsyncClient, run: str) -> list[bytes]:
    response = await http.get(f"/runs/{run}/events", headers={"Accept": "application/x-ndjson"})
    return response.content.splitlines()


async def test_one_event_gets_one_result(http: httpx.AsyncClient) -> None:
    """Answered after the script's reply, with the feed ID; the tail is the last event's."""
    response = await http.post("/runs/r1/events", json={"type": "order.paid", "data": {"cents": 500}})
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["run", "tail", "results"]
    (result,) = answer["results"]
    assert result["outcome"] == "appended"
    assert result["id"].startswith("1-")
    assert answer["tail"] == result["id"]


async def test_data_comes_back_byte_for_byte(http: httpx.AsyncClient) -> None:
    """Numbers, escapes, order, repeated members, lone surrogates; line ends are spaces."""
    data = b'{ "b":1.50, "a":1e400,\r\n"b":"\\ud800\\u0000\xe2\x80\xa8", "n":123456789012345678901234567890 }'
    body = b'[{"type":"a.b","data":%b},{"data":null,"type":"c"}]' % data
    headers = {"Content-Type": "application/json"}
    response = await http.post("/runs/r1/events", content=body, headers=headers)
    first, second = [result["id"] for result in response.json()["results"]]
    line = data.replace(b"\r", b" ").replace(b"\n", b" ")
    lines = (await http.get("/runs/r1/events", headers={"Accept": "application/x-ndjson"})).content.split(b"\n")
    assert lines[0] == b'{"id":"%b","run":"r1","type":"a.b","data":%b}' % (first.encode(), line)
    assert lines[1] == b'{"id":"%b","run":"r1","type":"c","data":null}' % second.encode()


async def test_ndjson_is_taken(http: httpx.AsyncClient) -> None:
    """By both its names."""
    for media in ("application/x-ndjson", "application/ndjson"):
        body = '{"type":"a"}\r\n\n{"type":"b"}'
        response = await http.post("/runs/r1/events", content=body, headers={"Content-Type": media})
        assert [result["outcome"] for result in response.json()["results"]] == ["appended", "appended"]


async def test_a_resend_is_a_duplicate_with_the_same_ids(http: httpx.AsyncClient) -> None:
    """For the producer's last body; an older one's are null; the tail is the run's."""
    first = (await http.post("/runs/r1/events", json=[{"type": "a"}, {"type": "b"}], headers=numbered(1))).json()
    again = (await http.post("/runs/r1/events", json=[{"type": "a"}, {"type": "b"}], headers=numbered(1))).json()
    assert [r["outcome"] for r in again["results"]] == ["duplicate", "duplicate"]
    assert [r["id"] for r in again["results"]] == [r["id"] for r in first["results"]]
    assert again["tail"] == first["tail"]
    third = (await http.post("/runs/r1/events", json={"type": "c"}, headers=numbered(3))).json()
    old = (await http.post("/runs/r1/events", json={"type": "other"}, headers=numbered(1))).json()
    assert old["results"] == [{"outcome": "duplicate", "id": None}]
    assert old["tail"] == third["tail"]


async def test_a_body_may_begin_with_duplicates(http: httpx.AsyncClient) -> None:
    """And go on with new events."""
    await http.post("/runs/r1/events", json=[{"type": "a"}, {"type": "b"}], headers=numbered(1))
    response = await http.post(
        "/runs/r1/events", json=[{"type": "a"}, {"type": "b"}, {"type": "c"}], headers=numbered(1, prev=0)
    )
    assert [r["outcome"] for r in response.json()["results"]] == ["duplicate", "duplicate", "appended"]
    assert [json.loads(line)["type"] for line in await envelopes(http, "r1")] == ["a", "b", "c"]


async def test_two_equal_requests_at_once(http: httpx.AsyncClient) -> None:
    """One appended, one duplicate, same IDs."""
    responses = await asyncio.gather(
        *(http.post("/runs/r1/events", json={"type": "a"}, headers=numbered(1)) for _ in range(2))
    )
    results = [response.json()["results"][0] for response in responses]
    assert sorted(result["outcome"] for result in results) == ["appended", "duplicate"]
    assert results[0]["id"] == results[1]["id"]


async def test_numbers_may_skip_between_bodies(http: httpx.AsyncClient) -> None:
    """With Tailrace-Prev naming the last one accepted; a byte offset is a number."""
    await http.post("/runs/r1/events", json={"type": "a"}, headers=numbered(1))
    response = await http.post("/runs/r1/events", json={"type": "b"}, headers=numbered(4096, prev=1))
    assert response.status_code == 200


async def test_a_hole_says_what_is_stored(http: httpx.AsyncClient) -> None:
    """409 with the number that the server has, the index and all results."""
    await http.post("/runs/r1/events", json={"type": "a"}, headers=numbered(1))
    response = await http.post("/runs/r1/events", json=[{"type": "c"}, {"type": "d"}], headers=numbered(5))
    problem = problem_of(response, 409, "hole")
    assert (problem["stored"], problem["index"]) == (1, 0)
    assert problem["results"] == [{"outcome": "hole"}, {"outcome": "hole"}]


async def test_what_depends_on_the_run_is_judged_in_order(http: httpx.AsyncClient) -> None:
    """Events before the refused one stay, none behind it is applied."""
    response = await http.post(
        "/runs/r1/events", json=[{"type": "a"}, {"type": "run.finished"}, {"type": "b"}, {"type": "c"}]
    )
    problem = problem_of(response, 409, "closed")
    assert problem["index"] == 2
    assert [r["outcome"] for r in problem["results"]] == ["appended", "appended", "closed", "hole"]
    assert problem["run_status"] == "succeeded"
    assert problem["tail"] == problem["results"][1]["id"]
    assert [json.loads(line)["type"] for line in await envelopes(http, "r1")] == ["a", "run.finished"]


async def test_the_gateway_goes_on_for_a_run_after_a_refusal(http: httpx.AsyncClient) -> None:
    """Requests without numbers are the gateway's own chain; others' events behind a refused one are not lost."""
    problem_of(await http.post("/runs/r1/events", json=[{"type": "a"}, {"type": "run.resumed"}]), 409, "illegal")
    responses = await asyncio.gather(
        *(http.post("/runs/r1/events", json=[{"type": f"t{i}"}, {"type": "run.resumed"}]) for i in range(5)),
        *(http.post("/runs/r1/events", json={"type": f"u{i}"}) for i in range(5)),
    )
    assert [response.status_code for response in responses] == [409] * 5 + [200] * 5
    types = {json.loads(line)["type"] for line in await envelopes(http, "r1")}
    assert types == {"a"} | {f"t{i}" for i in range(5)} | {f"u{i}" for i in range(5)}


async def test_a_resent_end_is_a_duplicate(http: httpx.AsyncClient) -> None:
    """Not closed: duplicates are judged before the lifecycle."""
    for _ in range(2):
        response = await http.post("/runs/r1/events", json={"type": "run.finished"}, headers=numbered(7, prev=1))
        if response.status_code == 409:
            response = await http.post("/runs/r1/events", json={"type": "a"}, headers=numbered(1))
            response = await http.post("/runs/r1/events", json={"type": "run.finished"}, headers=numbered(7, prev=1))
    assert response.json()["results"][0]["outcome"] == "duplicate"


@pytest.mark.parametrize("first", ["run.finished", "run.failed", "run.cancelled", "run.resumed", "run.waiting"])
async def test_a_first_event_cannot_end_resume_or_wait(http: httpx.AsyncClient, first: str) -> None:
    """409 illegal, and no run was made."""
    problem = problem_of(await post(http, "r1", first), 409, "illegal")
    assert (problem["from"], problem["event_type"]) == ("new", first)
    problem_of(await http.get("/runs/r1"), 404, "unknown-run")


@pytest.mark.parametrize("type", ["run.retrying", "run.cancel_requested"])
async def test_what_only_we_may_say(http: httpx.AsyncClient, type: str) -> None:
    """run.retrying and run.cancel_requested from outside are illegal."""
    await post(http, "r1", "a")
    problem_of(await post(http, "r1", type), 409, "illegal")


async def test_the_lifecycle_from_outside(http: httpx.AsyncClient) -> None:
    """queued → running ⇄ waiting → succeeded; then nothing more."""

    async def status(run: str) -> str:
        return str((await http.get(f"/runs/{run}")).json()["status"])

    queued = {"type": "run.queued", "data": {"task": "answer", "input": {"q": "why?"}}}
    assert (await http.post("/runs/r1/events", json=queued)).status_code == 200
    assert await status("r1") == "queued"
    for type, expected in [
        ("run.started", "running"),
        ("run.waiting", "waiting"),
        ("run.resumed", "running"),
        ("note", "running"),
        ("run.finished", "succeeded"),
    ]:
        assert (await post(http, "r1", type)).status_code == 200, type
        assert await status("r1") == expected
    for type in ("note", "run.started", "run.failed"):
        assert problem_of(await post(http, "r1", type), 409, "closed")["run_status"] == "succeeded"


async def test_queued_again_with_the_same_start_is_a_duplicate(http: httpx.AsyncClient) -> None:
    """With another input it is run-exists."""
    for data, expected in [
        ({"task": "a", "input": {"x": 1, "y": 2}}, "appended"),
        ({"task": "a", "input": {"y": 2, "x": 1}}, "duplicate"),
    ]:
        response = await http.post("/runs/r1/events", json={"type": "run.queued", "data": data})
        assert response.json()["results"][0]["outcome"] == expected
    other = {"type": "run.queued", "data": {"task": "a", "input": {"x": 2}}}
    problem = problem_of(await http.post("/runs/r1/events", json=other), 409, "run-exists")
    assert problem["results"] == [{"outcome": "run-exists"}]


async def test_labels_of_the_first_event_are_the_runs(http: httpx.AsyncClient) -> None:
    """Only run.queued and run.started of a new run set them."""
    queued = {"type": "run.queued", "labels": {"user": "7"}, "data": {"task": "a"}}
    await http.post("/runs/r1/events", json=[queued, {"type": "b", "labels": {"user": "8"}}])
    assert (await http.get("/runs/r1")).json()["labels"] == {"user": "7"}
    assert json.loads((await envelopes(http, "r1"))[1])["labels"] == {"user": "8"}


@pytest.mark.parametrize(
    ("run", "slug"),
    [
        ("a%2Fb", "bad-name"),
        ("a%20b", "bad-name"),
        ("%C3%A4", "bad-name"),
        ("%FF", "bad-name"),
        ("a~b~c", "bad-name"),
        ("~a", "bad-name"),
        ("a~", "bad-name"),
        ("%2E%2E", "bad-name"),
        ("a" * 65, "bad-name"),
        ("a%2541", "bad-name"),
    ],
)
async def test_bad_names(http: httpx.AsyncClient, run: str, slug: str) -> None:
    """After one percent-decoding; an encoded slash is a bad name."""
    for response in (await post(http, run, "a"), await http.get(f"/runs/{run}"), await http.get(f"/runs/{run}/events")):
        assert problem_of(response, 400, slug)["field"] in ("run", "path")


async def test_names_are_decoded_once(http: httpx.AsyncClient) -> None:
    """r%7E1 is not r1, a%7Eb is a~b."""
    assert (await post(http, "a%7Eb", "x")).json()["run"] == "a~b"
    assert (await http.get("/runs/a~b")).json()["run"] == "a~b"


@pytest.mark.parametrize(
    ("headers", "content", "status", "slug"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "media-type"),
        ({}, b"{}", 415, "media-type"),
        ({"Content-Type": "application/json; charset=latin-1"}, b"{}", 415, "media-type"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"{}", 415, "media-type"),
        ({"Content-Type": "application/cloudevents+xml"}, b"{}", 415, "media-type"),
        ({"Content-Type": "application/cloudevents+json"}, b"{}", 400, "bad-event"),
        ({"Content-Type": "application/cloudevents-batch+json"}, b"[]", 400, "bad-event"),
        ({"Content-Type": "application/json", "ce-specversion": "1.0"}, b"{}", 400, "bad-event"),
        ({"Content-Type": "application/json"}, b"", 400, "bad-json"),
        ({"Content-Type": "application/json"}, b"\xef\xbb\xbf{}", 400, "bad-json"),
        ({"Content-Type": "application/json"}, b'{"type":"a","data":NaN}', 400, "bad-json"),
        ({"Content-Type": "application/json"}, b"[]", 400, "bad-event"),
        ({"Content-Type": "application/json"}, b'{"type":"tailrace.gap"}', 400, "bad-event"),
        ({"Content-Type": "application/json"}, b'{"type":"a","attempt":1}', 400, "bad-event"),
        ({"Content-Type": "application/json"}, b'{"type":"run.queued"}', 400, "bad-event"),
        (
            {"Content-Type": "application/json"},
            b"[" + b'{"type":"a"},' * 256 + b'{"type":"a"}]',
            413,
            "too-many-events",
        ),
        ({"Content-Type": "application/json"}, b'{"type":"a","data":"' + b"x" * 65536 + b'"}', 413, "event-too-large"),
        ({"Content-Type": "application/json"}, b" " * (1024 * 1024 + 1), 413, "body-too-large"),
        ({"Content-Type": "application/json", "Tailrace-Number": "1"}, b'{"type":"a"}', 400, "bad-number"),
        (
            {"Content-Type": "application/json", **numbered(2**53 - 1)},
            b'[{"type":"a"},{"type":"b"}]',
            400,
            "bad-number",
        ),
    ],
)
async def test_what_the_body_alone_is_refused_for_changes_nothing(
    http: httpx.AsyncClient, headers: dict[str, str], content: bytes, status: int, slug: str
) -> None:
    """And makes no run."""
    response = await http.post("/runs/r1/events", content=content, headers=headers)
    problem_of(response, status, slug)
    problem_of(await http.get("/runs/r1"), 404, "unknown-run")


async def test_ndjson_errors_name_the_line(http: httpx.AsyncClient) -> None:
    """From 1; nothing of the body is applied."""
    body = b'{"type":"a"}\n\n{"type":"b","x":1}\n'
    response = await http.post("/runs/r1/events", content=body, headers={"Content-Type": "application/x-ndjson"})
    problem = problem_of(response, 400, "bad-event")
    assert (problem["line"], problem["field"]) == (3, "events[1].x")
    problem_of(await http.get("/runs/r1"), 404, "unknown-run")


async def test_a_chunked_body_is_bounded_too(http: httpx.AsyncClient) -> None:
    """Without Content-Length it is counted while it comes."""

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 65536

    response = await http.post("/runs/r1/events", content=chunks(), headers={"Content-Type": "application/json"})
    problem_of(response, 413, "body-too-large")


async def test_repeated_producer_headers_are_problem_of(http: httpx.AsyncClient) -> None:
    """400 bad-number."""
    headers = [("Tailrace-Producer", "p"), ("Tailrace-Number", "1"), ("Tailrace-Number", "1")]
    response = await http.post("/runs/r1/events", json={"type": "a"}, headers=headers)
    assert problem_of(response, 400, "bad-number")["field"] == "Tailrace-Number"


async def test_values_in_problems_are_cut(http: httpx.AsyncClient) -> None:
    """At 200 characters, the whole at 4 KiB."""
    response = await http.post("/runs/r1/events", json={"type": "x" * 60000})
    problem = problem_of(response, 400, "bad-event")
    assert problem["value"] == "x" * 200


async def test_a_full_log_is_429_with_retry_after(server: TestServer, namespace: str, way: Way) -> None:
    """Naming the slowest group, where that group refuses production; no run is made."""
    settings = Settings(redis_url=server.url, namespace=namespace, log_limit=100)
    async with Tailrace(settings=settings) as tail, serving(standalone(tail), way, f"/api/{namespace}") as http:
        session = await tail.session()
        keys = session.keys.of("r1")
        await session.scripts.bind(keys, "mail", when_behind="refuse")
        for _ in range(4):
            await http.post("/runs/r1/events", json=[{"type": "a"}] * 50)
        problem = problem_of(response := await http.post("/runs/r1/events", json={"type": "a"}), 429, "full")
        assert problem["group"] == "mail"
        assert int(response.headers["retry-after"]) >= 1


async def test_a_full_task_is_429(server: TestServer, namespace: str, way: Way) -> None:
    """run.queued at the task's own limit names the task."""
    settings = Settings(redis_url=server.url, namespace=namespace, work_limit=1, partitions=1)
    async with Tailrace(settings=settings) as tail, serving(standalone(tail), way, f"/api/{namespace}") as http:
        queued = {"type": "run.queued", "data": {"task": "mail"}}
        assert (await http.post("/runs/r1/events", json=queued)).status_code == 200
        problem = problem_of(await http.post("/runs/r2/events", json=queued), 429, "full")
        assert problem["task"] == "mail"
        problem_of(await http.get("/runs/r2"), 404, "unknown-run")
