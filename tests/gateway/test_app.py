"""The gateway as an app: addresses, methods, origins, permission, namespaces, mounts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from gateway.app import Gateway, standalone
from gateway.auth import Access, Grant, everyone, links_only
from processor.client.tailrace import Tailrace
from processor.store.topology import create_topology
from tests.gateway.answers import lines_of, post, problem_of
from tests.gateway.conftest import KEY
from tests.gateway.serving import Way, serving
from tests.support.until import until


def link(namespace: str, run: str, seconds: float = 60, key: str = KEY) -> str:
    claims = {"ns": namespace, "run": run, "exp": int(time.time() + seconds)}
    return jwt.encode(claims, key, algorithm="HS256")


# --- addresses and methods


@pytest.mark.parametrize(
    "path", ["/", "/x", "/runs/", "/runs//events", "/runs/r1/x", "/runs/r1/events/", "/runs/r1/events/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
async def test_unknown_addresses_are_404(http: httpx.AsyncClient, path: str, method: str) -> None:
    """A problem like every other refusal, whatever the method."""
    problem = problem_of(await http.request(method, path), 404, "not-found")
    assert problem["value"].endswith(path)


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/runs", "GET, HEAD, OPTIONS, POST"),
        ("/runs/r1", "GET, HEAD, OPTIONS"),
        ("/runs/r1/events", "GET, HEAD, OPTIONS, POST"),
        ("/runs/r1/cancel", "OPTIONS, POST"),
        ("/runs/r1/inputs", "OPTIONS, POST"),
        ("/live", "GET, HEAD, OPTIONS"),
    ],
)
async def test_other_methods_are_405_and_options_204(http: httpx.AsyncClient, path: str, allow: str) -> None:
    """Both with Allow; OPTIONS without a body or an Access-Control header."""
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - set(allow.split(", ")):
        response = await http.request(method, path)
        assert problem_of(response, 405, "method")["value"] == method
        assert response.headers["allow"] == allow
    response = await http.options(path)
    assert (response.status_code, response.content, response.headers["allow"]) == (204, b"", allow)
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_head_is_get_without_the_body(http: httpx.AsyncClient) -> None:
    """Status and headers; of refusals too."""
    await post(http, "r1", "a")
    for path in ("/runs", "/runs/r1", "/runs/r2", "/runs/a%2Fb", "/live"):
        head = await http.head(path)
        assert head.content == b""
        if path == "/live":
            assert head.headers["content-type"].startswith("text/event-stream")
            continue
        get = await http.get(path)
        assert head.status_code == get.status_code
        assert head.headers["content-type"] == get.headers["content-type"]
        assert head.headers["content-length"] == str(len(get.content))


# --- origins


async def test_no_access_control_header_unless_the_origin_is_listed(tail: Tailrace, namespace: str, way: Way) -> None:
    """A listed one is named in answers, refusals and OPTIONS; no star."""
    app = standalone(tail, cors_origins=["http://localhost:5173"])
    async with serving(app, way, f"/api/{namespace}") as http:
        await post(http, "r1", "a")
        listed = {"Origin": "http://localhost:5173"}
        for path in ("/runs/r1", "/runs/r2", "/nothing"):
            response = await http.get(path, headers=listed)
            assert response.headers["access-control-allow-origin"] == "http://localhost:5173"
            assert response.headers["vary"] == "origin"
        response = await http.options("/runs/r1/events", headers=listed)
        assert response.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS, POST"
        assert response.headers["access-control-allow-origin"] == "http://localhost:5173"
        own = {"Origin": str(http.base_url.copy_with(path="/")).rstrip("/")}
        for headers in ({}, own):
            response = await http.get("/runs/r1", headers=headers)
            assert response.status_code == 200
            assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_other_origins_are_403(http: httpx.AsyncClient, origin: str) -> None:
    """Whatever they ask; nothing is appended. Their OPTIONS is answered without a word for them."""
    headers = {"Origin": origin}
    response = await http.post("/runs/r1/events", json={"type": "a"}, headers=headers)
    problem = problem_of(response, 403, "cors-refused")
    assert problem["value"] == origin
    assert f"TAILRACE_CORS_ORIGINS={origin}" in problem["remedy"]
    problem_of(await http.get("/runs/r1/events", headers=headers), 403, "cors-refused")
    assert (await http.get("/runs/r1")).status_code == 404
    response = await http.options("/runs/r1/events", headers=headers)
    assert response.status_code == 204
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_an_open_gateway_is_no_other_names(tail: Tailrace, namespace: str, way: Way, method: str) -> None:
    """DNS rebinding: Host and Origin agree, and it is refused. One that asks is reached by any name."""
    headers = {"Host": "evil.example:8600", "Origin": "http://evil.example:8600"}
    async with serving(standalone(tail, console=True), way) as http:
        for path in ("/", f"/api/{namespace}/runs", f"/api/{namespace}/runs/r1/cancel", "/metrics"):
            problem = problem_of(await http.request(method, path, headers=headers), 403, "denied")
            assert (problem["field"], problem["value"]) == ("Host", "evil.example:8600")

    async def may(connection: HTTPConnection, access: Access) -> bool:
        return True

    for app in (standalone(tail, authorize=may), Gateway(tail, authorize=everyone)):
        async with serving(app, way) as http:
            assert (await http.get("/healthz", headers=headers)).status_code == 200


# --- permission


async def test_the_application_is_asked(tail: Tailrace, way: Way) -> None:
    """With what is wanted, the run, its thread and its labels; a refusal is 403 and changes nothing."""
    asked: list[Access] = []

    async def may(connection: HTTPConnection, access: Access) -> bool:
        asked.append(access)
        return connection.headers.get("x-user") == access.labels.get("user", "root")

    async with serving(Gateway(tail, authorize=may), way) as http:
        root, seven = {"X-User": "root"}, {"X-User": "7"}
        body = {"task": "a", "thread": "t", "id": "x", "labels": {"user": "7"}}
        assert (await http.post("/runs", json=body, headers=seven)).status_code == 201
        for method, path, content in [
            ("GET", "/runs/t~x", None),
            ("GET", "/runs/t~x/events", None),
            ("POST", "/runs/t~x/events", {"type": "a"}),
            ("POST", "/runs/t~x/inputs", {"value": 1}),
            ("POST", "/runs/t~x/cancel", {}),
        ]:
            response = await http.request(method, path, json=content, headers=root)
            assert problem_of(response, 403, "denied")["value"] == "t~x"
        problem_of(await http.post("/runs", json={"task": "a", "labels": {"user": "8"}}, headers=seven), 403, "denied")
        problem_of(await http.get("/runs", headers=seven), 403, "denied")
        problem_of(await http.get("/live", headers=seven), 403, "denied")
        problem_of(await http.get("/metrics", headers=seven), 403, "denied")
        assert (await http.get("/runs?label=user:7", headers=seven)).status_code == 200
        assert len(await lines_of_as(http, "t~x", seven)) == 1
    assert asked[0] == Access("start", "t~x", "t", {"user": "7"})
    assert asked[1] == Access("read", "t~x", "t", {"user": "7"})
    assert {access.scope for access in asked} == {"start", "read", "append", "answer", "cancel", "list", "metrics"}


async def lines_of_as(http: httpx.AsyncClient, run: str, headers: dict[str, str]) -> list[bytes]:
    response = await http.get(f"/runs/{run}/events", headers={"Accept": "application/x-ndjson", **headers})
    return response.content.splitlines()


async def test_who_waits_for_a_run_is_asked_again_when_it_is_there(tail: Tailrace, way: Way) -> None:
    """Only then its labels say whose it is."""

    asked: list[Access] = []

    async def may(connection: HTTPConnection, access: Access) -> bool:
        asked.append(access)
        return access.labels.get("user") in (None, connection.headers["x-user"])

    async with serving(Gateway(tail, authorize=may), way) as http:

        async def read(user: str) -> httpx.Response:
            return await http.get("/runs/r1/events?wait=30", headers={"X-User": user})

        waiting = [asyncio.create_task(read(user)) for user in ("7", "8")]
        await until(lambda: len(asked) == 2, "both have been asked")
        begin = {"type": "run.started", "labels": {"user": "7"}, "data": {"input": {}}}
        assert (await http.post("/runs/r1/events", json=begin, headers={"X-User": "7"})).status_code == 200
        own, other = await asyncio.gather(*waiting)
        assert len(own.json()["events"]) == 1
        problem_of(other, 403, "denied")


async def test_the_application_may_refuse_in_its_own_words(tail: Tailrace, way: Way) -> None:
    """An HTTPException keeps its 401; a Grant that has ended is a refusal; a bug is 500 and in the log."""
    answers: dict[str, Callable[[], Any]] = {}

    async def may(connection: HTTPConnection, access: Access) -> Grant | bool:
        return answers["now"]()  # type: ignore[no-any-return]

    def sign_in() -> bool:
        raise HTTPException(401, "sign in first")

    def broken() -> bool:
        raise RuntimeError("a secret")

    async with serving(Gateway(tail, authorize=may), way) as http:
        answers["now"] = sign_in
        assert problem_of(await http.get("/runs"), 401, "denied")["detail"] == "sign in first"
        answers["now"] = lambda: Grant(until=datetime.now(UTC) - timedelta(seconds=1))
        problem_of(await http.get("/runs"), 403, "denied")
        answers["now"] = lambda: Grant(until=datetime.now(UTC) + timedelta(seconds=60))
        assert (await http.get("/runs")).status_code == 200
        answers["now"] = broken
        response = await http.get("/runs")
        assert response.status_code == 500
        assert "secret" not in response.text


async def test_a_link_reads_its_run_and_nothing_else(tail: Tailrace, namespace: str, way: Way) -> None:
    """GET and HEAD of the run and its events, any number of times."""
    app = standalone(tail, authorize=links_only)
    async with serving(standalone(tail), way, f"/api/{namespace}") as http:
        await post(http, "r1", "a")
        await post(http, "r2", "a")
    async with serving(app, way, f"/api/{namespace}") as http:
        token = {"token": link(namespace, "r1")}
        for _ in range(2):
            for path in ("/runs/r1", "/runs/r1/events"):
                assert (await http.get(path, params=token)).status_code == 200
                assert (await http.head(path, params=token)).status_code == 200
                problem_of(await http.get(path), 403, "denied")
        for path in ("/runs/r2", "/runs/r2/events"):
            problem_of(await http.get(path, params=token), 401, "denied")
        for method, path in [
            ("GET", "/runs"),
            ("GET", "/live"),
            ("POST", "/runs/r1/events"),
            ("POST", "/runs/r1/cancel"),
            ("POST", "/runs/r1/inputs"),
        ]:
            response = await http.request(method, path, params=token, json={} if method == "POST" else None)
            problem_of(response, 403, "denied")


async def test_links_are_judged_also_where_everybody_may(http: httpx.AsyncClient, namespace: str) -> None:
    """Expired: token-expired with the way on; else invalid: denied."""
    ids = await post(http, "r1", "a")
    old = link(namespace, "r1", seconds=-14)
    response = await http.get("/runs/r1/events", params={"token": old, "after": ids[0]})
    problem = problem_of(response, 401, "token-expired")
    assert problem["detail"].startswith("the link ended 14 s ago (") or problem["detail"].startswith(
        "the link ended 15 s"
    )
    assert problem["remedy"].endswith(f"and reconnect with ?after={ids[0]}")
    for token in ("x", "", link("other", "r1"), link(namespace, "r2"), link(namespace, "r1", key="q" * 32)):
        problem_of(await http.get("/runs/r1/events", params={"token": token}), 401, "denied")
    twice = f"token={link(namespace, 'r1')}&token={link(namespace, 'r1')}"
    problem_of(await http.get(f"/runs/r1?{twice}"), 401, "denied")


# --- namespaces


async def test_http_never_makes_a_namespace(tail: Tailrace, way: Way) -> None:
    """404 unknown-namespace until a library or command made it; a bad name is 400."""
    app = standalone(tail)
    async with serving(app, way) as http:
        for _ in range(2):
            response = await http.post("/api/other/runs/r1/events", json={"type": "a"})
            assert problem_of(response, 404, "unknown-namespace")["value"] == "other"
        for name in ("Other", "a_b", "-a", "a" * 42, "a%3Ab", "a%2Fb"):
            problem_of(await http.get(f"/api/{name}/runs"), 400, "bad-name")
        session = await tail.session()
        await create_topology(session.redis, "other", 2)
        assert (await http.post("/api/other/runs/r1/events", json={"type": "a"})).status_code == 200
        assert len((await http.get("/api/other/runs")).json()["runs"]) == 1
        for path in ("/api", "/api/other", "/api/other/x", "/api/nobody/x"):
            problem_of(await http.get(path), 404, "not-found")
    await app.close()


# --- mounts


@pytest.mark.parametrize("kind", ["starlette", "fastapi"])
async def test_mounted_it_serves_the_same_without_the_namespace(tail: Tailrace, way: Way, kind: str) -> None:
    """Location begins at the mount; no lifespan is needed."""
    gateway = Gateway(tail, authorize=everyone, console=True)
    outer: Any
    if kind == "starlette":
        outer = Starlette(routes=[Mount("/a b/tail", gateway)])
        path = "/a%20b/tail"
    else:
        outer = FastAPI()
        outer.mount("/tail", gateway)
        path = "/tail"
    async with serving(outer, way, path) as http:
        response = await http.post("/runs", json={"task": "a", "id": "x~1"})
        assert response.headers["location"] == f"{path}/runs/x~1"
        assert len(await lines_of(http, "x~1")) == 1
        problem_of(await http.get("/runs/a%2Fb"), 400, "bad-name")
        problem_of(await http.get("/api/default/runs"), 404, "not-found")
        assert (await http.get("/tailrace.js")).status_code == 200
        assert (await http.get("/healthz")).status_code == 200


# --- operations


async def test_health_readiness_and_metrics_stand_at_the_root(tail: Tailrace, namespace: str, way: Way) -> None:
    """In their formats; /metrics counts what was appended and asked."""
    async with serving(standalone(tail), way) as http:
        assert (await http.get("/healthz")).json()["status"] == "ok"
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        await http.post(f"/api/{namespace}/runs/secret-run/events", json={"type": "a"})
        response = await http.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        assert 'tailrace_appends_total{outcome="appended"}' in response.text
        assert 'tailrace_http_requests_total{route="events",status="200"}' in response.text
        assert "secret-run" not in response.text
        for path in ("/healthz", "/readyz", "/metrics", "/tailrace.js"):
            problem_of(await http.post(path), 405, "method")
            assert (await http.head(path)).status_code == 200


# --- the console's files


async def test_the_console_is_served_only_where_it_is_wanted(tail: Tailrace, namespace: str, way: Way) -> None:
    """Its page names the API relative to itself; files have an ETag; nothing outside its folder is served."""
    async with serving(standalone(tail), way) as http:
        problem_of(await http.get("/"), 404, "not-found")
        problem_of(await http.get("/console/console.css"), 404, "not-found")
        assert (await http.get("/tailrace.js")).headers["content-type"].startswith("text/javascript")
    async with serving(standalone(tail, console=True), way) as http:
        page = await http.get("/")
        assert f'<meta name="tailrace-api" content="api/{namespace}">' in page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        style = await http.get("/console/console.css")
        assert style.headers["content-type"] == "text/css; charset=utf-8"
        again = await http.get("/console/console.css", headers={"If-None-Match": style.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for path in (
            "/console/" + "a" * 300,
            "/console/" + "a/" * 2500 + "a",
            "/console/",
            "/console/..%2Fapp.py",
            "/console/%2E%2E/app.py",
            "/console/nothing.js",
            "/app.py",
        ):
            problem_of(await http.get(path), 404, "not-found")
    async with serving(Gateway(tail, authorize=everyone, console=True), way) as http:
        assert '<meta name="tailrace-api" content=".">' in (await http.get("/")).text


async def test_a_mount_without_its_slash_leads_to_the_page() -> None:
    """So that the page's relative addresses are right."""
    gateway = Gateway(Tailrace("redis://127.0.0.1:1"), authorize=everyone, console=True)
    transport = httpx.ASGITransport(app=gateway, root_path="/tail")
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        response = await http.get("/tail")
    assert (response.status_code, response.headers["location"]) == (307, "/tail/")
