"""POST /runs/{run}/events with CloudEvents: all modes end in the same feed, under the same rules as native events."""

from __future__ import annotations

import json

import httpx

from tests.gateway.answers import lines_of, problem_of

HEADERS = {"ce-specversion": "1.0", "ce-id": "A-1", "ce-source": "/shop", "ce-type": "order.paid"}
EVENT = {name.removeprefix("ce-"): value for name, value in HEADERS.items()}
DATA = b'{ "cents":1.50,\r\n"a":"\\ud800" }'
LABELS = {"ce-id": "A-1", "ce-source": "/shop"}


def with_data(event: dict[str, str], data: bytes) -> bytes:
    return json.dumps(event)[:-1].encode() + b',"data":' + data + b"}"


async def send(http: httpx.AsyncClient, run: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await http.post(f"/runs/{run}/events", content=content, headers=named)


async def test_all_modes_are_the_same_event(http: httpx.AsyncClient) -> None:
    """Data byte for byte, attributes as labels; the answer is as for native events."""
    native = b'{"type":"order.paid","labels":{"ce-id":"A-1","ce-source":"/shop"},"data":' + DATA + b"}"
    responses = [
        await send(http, "native", native, content_type="application/json"),
        await send(http, "structured", with_data(EVENT, DATA), content_type="application/cloudevents+json"),
        await send(
            http, "batch", b"[" + with_data(EVENT, DATA) + b"]", content_type="application/cloudevents-batch+json"
        ),
        await send(http, "binary", DATA, content_type="application/json; charset=utf-8", **HEADERS),
        await send(http, "repeated", with_data(EVENT, DATA), content_type="application/cloudevents+json", **HEADERS),
    ]
    payloads = set()
    for response in responses:
        assert response.status_code == 200, response.text
        run = response.json()["run"]
        (result,) = response.json()["results"]
        assert result["outcome"] == "appended"
        raw = (await http.get(f"/runs/{run}/events", headers={"Accept": "application/x-ndjson"})).content
        payloads.add(raw.partition(b'"type"')[2])
    assert len(payloads) == 1


async def test_nothing_is_deduplicated_by_id(http: httpx.AsyncClient) -> None:
    """The same CloudEvent twice is two events; under producer headers it is a duplicate."""
    for _ in range(2):
        await send(http, "r1", b"1", **HEADERS)
    assert [event["labels"] for event in await lines_of(http, "r1")] == [LABELS, LABELS]
    numbered = {**HEADERS, "Tailrace-Producer": "p", "Tailrace-Number": "1"}
    outcomes = [(await send(http, "r2", b"1", **numbered)).json()["results"][0]["outcome"] for _ in range(2)]
    assert outcomes == ["appended", "duplicate"]


async def test_batches_are_numbered_and_refused_as_others(http: httpx.AsyncClient) -> None:
    """What stands before the first refused event stays; the problem has its index and all results."""
    batch = json.dumps([EVENT, {**EVENT, "type": "run.finished"}, EVENT]).encode()
    response = await send(http, "r1", batch, content_type="application/cloudevents-batch+json")
    problem = problem_of(response, 409, "closed")
    assert problem["index"] == 2
    assert [result["outcome"] for result in problem["results"]] == ["appended", "appended", "closed"]


async def test_lifecycle(http: httpx.AsyncClient) -> None:
    """A run begins and ends by CloudEvents, and has its labels."""
    queued = {**EVENT, "type": "run.queued", "data": {"task": "pay", "input": {}}}
    await send(http, "r1", json.dumps(queued).encode(), content_type="application/cloudevents+json")
    state = (await http.get("/runs/r1")).json()
    assert (state["status"], state["task"], state["labels"]) == ("queued", "pay", LABELS)
    await send(http, "r1", b'{"result": 1}', content_type="application/json", **{**HEADERS, "ce-type": "run.finished"})
    assert (await http.get("/runs/r1")).json()["status"] == "succeeded"


async def test_headers_pass_any_server(http: httpx.AsyncClient) -> None:
    """Names in any case, values percent-encoded."""
    headers = {name.upper(): value for name, value in HEADERS.items()} | {"CE-Subject": "Euro%20%E2%82%AC"}
    response = await send(http, "r1", b"\x00\xff", content_type="image/png", **headers)
    assert response.status_code == 200, response.text
    (event,) = await lines_of(http, "r1")
    assert event["labels"] == {**LABELS, "ce-subject": "Euro €", "ce-datacontenttype": "image/png"}
    assert event["data"] == {"data_base64": "AP8="}
