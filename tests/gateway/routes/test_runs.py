"""Runs over HTTP, WIRE 5: state, list, start, cancel, inputs."""

from __future__ import annotations

import re
from typing import Any

import httpx
import jwt
import pytest

from gateway.app import standalone
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from tests.gateway.answers import lines_of, post, problem_of
from tests.gateway.conftest import KEY
from tests.gateway.serving import Way, serving
from tests.support.servers import TestServer

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def start(http: httpx.AsyncClient, **members: Any) -> dict[str, Any]:
    response = await http.post("/runs", json=members)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def state(http: httpx.AsyncClient, run: str) -> dict[str, Any]:
    response = await http.get(f"/runs/{run}")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_the_state_of_a_run(http: httpx.AsyncClient) -> None:
    """Absent members left out; times RFC 3339 in UTC with milliseconds."""
    (first,) = await post(http, "r1", "a")
    answer = await state(http, "r1")
    assert set(answer) == {"run", "status", "attempt", "labels", "tail", "created", "updated"}
    assert (answer["status"], answer["attempt"], answer["tail"]) == ("running", 0, first)
    assert TIME.fullmatch(answer["created"])
    last = await http.post("/runs/r1/events", json={"type": "run.failed", "data": {"error": "it broke"}})
    answer = await state(http, "r1")
    assert (answer["status"], answer["error"], answer["tail"]) == ("failed", "it broke", last.json()["tail"])
    assert TIME.fullmatch(answer["ended"])


async def test_run_started_over_http_is_no_attempt(http: httpx.AsyncClient) -> None:
    """attempt is 0 while nothing executed the run."""
    await post(http, "r1", "run.started")
    assert (await state(http, "r1"))["attempt"] == 0


async def test_starting_a_run(http: httpx.AsyncClient, namespace: str) -> None:
    """201 with Location; it is a first event run.queued, its input the bytes that came."""
    body = b'{"task":"answer","input":{"b":1.50,\n"a":"\\ud800"},"labels":{"user":"7"}}'
    response = await http.post("/runs", content=body, headers={"Content-Type": "application/json"})
    answer = response.json()
    assert response.status_code == 201
    assert list(answer) == ["run", "id", "link"]
    assert re.fullmatch(r"[0-9a-hjkmnp-tv-z]{26}", answer["run"])
    assert response.headers["location"] == f"/api/{namespace}/runs/{answer['run']}"
    got = await state(http, answer["run"])
    assert (got["status"], got["task"], got["labels"], got["attempt"]) == ("queued", "answer", {"user": "7"}, 0)
    assert "waiting_for" in got
    content = (await http.get(f"/runs/{answer['run']}/events", headers={"Accept": "application/x-ndjson"})).content
    assert (
        b'"type":"run.queued","labels":{"user":"7"},"data":{"task":"answer","input":{"b":1.50, "a":"\\ud800"}}}'
        in content
    )


async def test_the_link_reads_the_run(http: httpx.AsyncClient, namespace: str) -> None:
    """Signed with TAILRACE_JWT_KEY, for this run alone."""
    answer = await start(http, task="answer")
    token = httpx.URL(answer["link"]).params["token"]
    claims = jwt.decode(token, KEY, algorithms=["HS256"])
    assert (claims["ns"], claims["run"]) == (namespace, answer["run"])


async def test_without_a_key_the_answer_has_no_link(server: TestServer, namespace: str, way: Way) -> None:
    """Rather than one that nobody signed."""
    settings = Settings(redis_url=server.url, namespace=namespace)
    async with Tailrace(settings=settings) as tail, serving(standalone(tail), way, f"/api/{namespace}") as http:
        assert list(await start(http, task="answer")) == ["run", "id"]


async def test_the_same_id_and_input_is_the_same_run(http: httpx.AsyncClient) -> None:
    """200 with its ID, keys in any order; another input is run-exists."""
    first = await start(http, task="answer", id="q~1", input={"a": 1, "b": 2})
    assert first["run"] == "q~1"
    again = await http.post("/runs", json={"task": "answer", "id": "q~1", "input": {"b": 2, "a": 1}})
    assert (again.status_code, again.json()["run"]) == (200, "q~1")
    assert again.headers["location"].endswith("/runs/q~1")
    other = await http.post("/runs", json={"task": "answer", "id": "q~1", "input": {"a": 2}})
    assert problem_of(other, 409, "run-exists")["value"] == "q~1"
    task = await http.post("/runs", json={"task": "other", "id": "q~1", "input": {"a": 1, "b": 2}})
    problem_of(task, 409, "run-exists")
    assert len(await lines_of(http, "q~1")) == 1


async def test_a_thread_has_one_active_run(http: httpx.AsyncClient) -> None:
    """T~<generated>, or T~x with id x; a second active one is busy and names the first."""
    first = await start(http, task="answer", thread="chat-1")
    assert first["run"].startswith("chat-1~")
    assert (await state(http, first["run"]))["thread"] == "chat-1"
    busy = await http.post("/runs", json={"task": "answer", "thread": "chat-1"})
    assert problem_of(busy, 409, "busy")["run"] == first["run"]
    await post(http, first["run"], "run.cancelled")
    assert (await start(http, task="answer", thread="chat-1", id="x"))["run"] == "chat-1~x"


async def test_a_delayed_run_waits_for_its_time(http: httpx.AsyncClient) -> None:
    """run.queued carries due, for eyes; the server counts."""
    answer = await start(http, task="answer", delay_seconds=3600)
    (event,) = await lines_of(http, answer["run"])
    assert TIME.fullmatch(event["data"]["due"])
    assert "its time" in (await state(http, answer["run"]))["waiting_for"]


@pytest.mark.parametrize(
    ("body", "slug", "field"),
    [
        ([], "bad-event", "body"),
        ({}, "bad-event", "task"),
        ({"task": 5}, "bad-event", "task"),
        ({"task": ""}, "bad-name", "task"),
        ({"task": "a b"}, "bad-name", "task"),
        ({"task": "a", "input": [1]}, "bad-event", "input"),
        ({"task": "a", "input": None}, "bad-event", "input"),
        ({"task": "a", "id": "a/b"}, "bad-name", "id"),
        ({"task": "a", "id": 5}, "bad-event", "id"),
        ({"task": "a", "thread": "x~y"}, "bad-name", "thread"),
        ({"task": "a", "thread": "t", "id": "x~y"}, "bad-name", "id"),
        ({"task": "a", "labels": []}, "bad-event", "labels"),
        ({"task": "a", "labels": {"x": 1}}, "bad-event", "labels.x"),
        ({"task": "a", "delay_seconds": -1}, "bad-event", "delay_seconds"),
        ({"task": "a", "delay_seconds": "5"}, "bad-event", "delay_seconds"),
        ({"task": "a", "delay_seconds": True}, "bad-event", "delay_seconds"),
        ({"task": "a", "delay_seconds": 1e12}, "bad-event", "delay_seconds"),
        ({"task": "a", "delay": 1}, "bad-event", "delay"),
    ],
)
async def test_bad_starts(http: httpx.AsyncClient, body: object, slug: str, field: str) -> None:
    """400 naming the member; nothing is made."""
    problem = problem_of(await http.post("/runs", json=body), 400, slug)
    assert problem["field"] == field
    assert (await http.get("/runs")).json() == {"runs": [], "next": None}


async def test_bodies_of_starts_are_json(http: httpx.AsyncClient) -> None:
    """415, 400 bad-json and 413 as for events."""
    problem_of(await http.post("/runs", content=b"{}"), 415, "media-type")
    headers = {"Content-Type": "application/json"}
    problem_of(await http.post("/runs", content=b"{", headers=headers), 400, "bad-json")
    problem_of(await http.post("/runs", content=b" " * 1048577, headers=headers), 413, "body-too-large")


async def test_the_list_is_newest_change_first(http: httpx.AsyncClient) -> None:
    """Written on lifecycle changes only; pages by an opaque next."""
    for n in reversed(range(5)):
        await post(http, f"r{n}", "a")
    await post(http, "r4", "run.finished")  # of the same millisecond the highest name is first
    await post(http, "r3", "b")
    answer = (await http.get("/runs")).json()
    assert answer["next"] is None
    assert answer["runs"][0] == await state(http, "r4")
    names = [run["run"] for run in answer["runs"]]
    assert sorted(names) == [f"r{n}" for n in range(5)]
    paged: list[str] = []
    after = ""
    while True:
        answer = (await http.get("/runs", params={"limit": "2", "after": after})).json()
        paged += [run["run"] for run in answer["runs"]]
        if answer["next"] is None:
            break
        after = answer["next"]
    assert paged == names


async def test_the_list_can_be_narrowed(http: httpx.AsyncClient) -> None:
    """By status, task and labels, repeatable."""
    first = await start(http, task="a", labels={"user": "7", "env": "x:y"})
    second = await start(http, task="b", labels={"user": "7"})
    await post(http, second["run"], "run.cancelled")
    for query, expected in [
        ("status=queued", [first]),
        ("status=cancelled", [second]),
        ("task=b", [second]),
        ("label=user:7", [second, first]),
        ("label=user:7&label=env:x:y", [first]),
        ("label=user:8", []),
        ("status=&task=&after=", [second, first]),
    ]:
        answer = (await http.get(f"/runs?{query}")).json()
        assert [run["run"] for run in answer["runs"]] == [run["run"] for run in expected], query


@pytest.mark.parametrize(
    ("query", "slug", "field"),
    [
        ("status=done", "bad-query", "status"),
        ("status=failed&status=queued", "bad-query", "status"),
        ("task=a%20b", "bad-query", "task"),
        ("label=user", "bad-query", "label"),
        ("label=:x", "bad-query", "label"),
        ("label=user:1&label=user:2", "bad-query", "label"),
        ("after=x", "bad-query", "after"),
        ("after=bmFuIHI", "bad-query", "after"),
        ("after=%FF", "bad-query", "after"),
        ("limit=0", "bad-limit", "limit"),
        ("limit=1001", "bad-limit", "limit"),
    ],
)
async def test_bad_queries(http: httpx.AsyncClient, query: str, slug: str, field: str) -> None:
    """400 naming the parameter."""
    await post(http, "r1", "a")
    assert problem_of(await http.get(f"/runs?{query}"), 400, slug)["field"] == field


async def test_a_queued_run_is_cancelled_at_once(http: httpx.AsyncClient) -> None:
    """202 while it had not ended; 200 once it has."""
    run = (await start(http, task="a"))["run"]
    body = b'{"reason":"user said \\"stop\\" \\ud83d\\ude00 \\ud800"}'
    response = await http.post(f"/runs/{run}/cancel", content=body)
    assert (response.status_code, response.json()) == (202, {"run": run, "asked": True, "status": "cancelled"})
    assert (await lines_of(http, run))[-1]["data"]["reason"] == 'user said "stop" \U0001f600 \ud800'
    response = await http.post(f"/runs/{run}/cancel")
    assert (response.status_code, response.json()) == (200, {"run": run, "asked": False, "status": "cancelled"})


async def test_a_running_run_is_asked_once(http: httpx.AsyncClient) -> None:
    """A second cancel asks nothing new."""
    await post(http, "r1", "run.started")
    for _ in range(2):
        response = await http.post("/runs/r1/cancel")
        assert (response.status_code, response.json()) == (202, {"run": "r1", "asked": True, "status": "running"})
    assert [line["type"] for line in await lines_of(http, "r1")] == ["run.started", "run.cancel_requested"]


async def test_bad_cancels(http: httpx.AsyncClient) -> None:
    """An unknown run is 404; the body is empty or has a reason."""
    problem_of(await http.post("/runs/r1/cancel"), 404, "unknown-run")
    await post(http, "r1", "a")
    problem_of(await http.post("/runs/r1/cancel", json={"why": "x"}), 400, "bad-event")
    problem_of(await http.post("/runs/r1/cancel", json={"reason": 5}), 400, "bad-event")
    problem_of(await http.post("/runs/r1/cancel", content=b"stop"), 400, "bad-json")
    problem_of(await http.post("/runs/a%2Fb/cancel"), 400, "bad-name")
    assert (await http.post("/runs/r1/cancel", content=b" \n")).status_code == 202


async def test_answering_what_a_run_waits_for(http: httpx.AsyncClient) -> None:
    """Without ask the open one is meant; the value is the bytes that came."""
    waiting = {"type": "run.waiting", "data": {"ask": "q1", "question": "?"}}
    await http.post("/runs/r1/events", json=[{"type": "run.started"}, waiting])
    assert (await state(http, "r1"))["ask"] == "q1"
    response = await http.post(
        "/runs/r1/inputs", content=b'{"value": [1.50,\n2]}', headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 202
    answer = response.json()
    assert answer["run"] == "r1"
    content = (await http.get("/runs/r1/events", headers={"Accept": "application/x-ndjson"})).content
    assert b'"type":"run.resumed","data":{"ask":"q1","value":[1.50, 2]}}' in content
    problem_of(await http.post("/runs/r1/inputs", json={"value": 1}), 409, "illegal")


async def test_an_answer_to_another_ask_is_illegal(http: httpx.AsyncClient) -> None:
    """And changes nothing."""
    waiting = {"type": "run.waiting", "data": {"ask": "q1"}}
    await http.post("/runs/r1/events", json=[{"type": "run.started"}, waiting])
    problem_of(await http.post("/runs/r1/inputs", json={"ask": "q0", "value": 1}), 409, "illegal")
    assert (await state(http, "r1"))["status"] == "waiting"
    assert (await http.post("/runs/r1/inputs", json={"ask": "q1", "value": None})).status_code == 202


async def test_what_becomes_an_event_is_as_large_as_an_event_may_be(http: httpx.AsyncClient) -> None:
    """An input, a value and a reason of more than 64 KiB are event-too-large and change nothing."""
    large = "x" * 70_000
    await start(http, task="a", id="r1")
    for path, body in (
        ("/runs", {"task": "a", "input": {"text": large}}),
        ("/runs/r1/inputs", {"value": large}),
        ("/runs/r1/cancel", {"reason": large}),
    ):
        problem_of(await http.post(path, json=body), 413, "event-too-large")
    assert len(await lines_of(http, "r1")) == 1


async def test_bad_inputs(http: httpx.AsyncClient) -> None:
    """An unknown run is 404 and is not made; value is needed; an ended run is closed."""
    problem_of(await http.post("/runs/r1/inputs", json={"value": 1}), 404, "unknown-run")
    problem_of(await http.get("/runs/r1"), 404, "unknown-run")
    await post(http, "r1", "a")
    problem_of(await http.post("/runs/r1/inputs", json={}), 400, "bad-event")
    problem_of(await http.post("/runs/r1/inputs", json={"value": 1, "x": 1}), 400, "bad-event")
    problem_of(await http.post("/runs/r1/inputs", json={"value": 1, "ask": 5}), 400, "bad-event")
    half = await http.post(
        "/runs/r1/inputs", content=b'{"value":1,"ask":"\\ud800"}', headers={"Content-Type": "application/json"}
    )
    assert problem_of(half, 400, "bad-event")["field"] == "ask"
    await post(http, "r1", "b")  # and nothing waits behind it for ever
    problem_of(await http.post("/runs/r1/inputs", content=b"1"), 415, "media-type")
    await post(http, "r1", "run.finished")
    assert problem_of(await http.post("/runs/r1/inputs", json={"value": 1}), 409, "closed")["run_status"] == "succeeded"
