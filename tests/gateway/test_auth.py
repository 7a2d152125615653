"""Links, origins, and what they say when they refuse."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from structlog.testing import capture_logs

from gateway.auth import Access, Cors, check_host, denied, everyone, is_loopback, links_only, read_link
from gateway.core.problems import Problem

KEY = "k" * 32
NOW = datetime(2026, 11, 24, 11, 20, 19, tzinfo=UTC)


def token(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    given = {"ns": "default", "run": "r1", "exp": int(NOW.timestamp()) + 60, **claims}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jwt.encode({k: v for k, v in given.items() if v is not None}, key, algorithm=algorithm)


def read(text: str, key: str | None = KEY, run: str = "r1", cursor: str | None = None) -> datetime:
    return read_link(text, key, namespace="default", run=run, now=NOW, cursor=cursor)


def test_a_link_permits_until_it_ends() -> None:
    """Its `exp` is the end of a stream that it opened."""
    assert read(token()) == NOW + timedelta(seconds=60)


def test_an_expired_link_says_when_and_how_to_go_on() -> None:
    """The words of API.md, with the cursor that the reader brought."""
    old = token(exp=int(NOW.timestamp()) - 14)
    with pytest.raises(Problem) as caught:
        read(old, cursor="118-1795506276265")
    problem = caught.value
    assert (problem.status, problem.type) == (401, "token-expired")
    assert problem.detail == "the link ended 14 s ago (11:20:05Z)."
    assert problem.remedy == (
        "Nothing is lost: get a new one from your server (run.link()) and reconnect with ?after=118-1795506276265"
    )
    with pytest.raises(Problem) as caught:
        read(token(exp=int(NOW.timestamp())))
    assert "?after" not in caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "a.b.c",
        token(key="q" * 32),
        "eyJhbGciOiJub25lIn0.eyJucyI6ImRlZmF1bHQiLCJydW4iOiJyMSJ9.",
        token(algorithm="HS512", key="k" * 64),
        token(run="r2"),
        token(run=None),
        token(ns="other"),
        token(ns=None),
        token(exp=None),
        token(exp="soon"),
        token(exp=True),
        token(exp=10**30),
        token(aud="somebody"),
        token(nbf=10**11),
        token()[:-2],
    ],
)
def test_other_tokens_are_denied(text: str) -> None:
    """401 denied: not signed by us, not for this run, not whole."""
    with pytest.raises(Problem) as caught:
        read(text)
    assert (caught.value.status, caught.value.type) == (401, "denied")


def test_without_a_key_there_are_no_links() -> None:
    """Also none that an empty key signed."""
    with pytest.raises(Problem) as caught:
        read(token(), key=None)
    assert caught.value.type == "denied"


async def test_the_two_answers_that_need_no_code() -> None:
    """`everyone` opens it, `links_only` leaves reading by link."""
    connection: Any = object()
    assert await everyone(connection, Access("list")) is True
    assert await links_only(connection, Access("read", run="r1")) is False
    assert denied(Access("read", run="r1")).status == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.168.0.1", "example.com", "")],
)
def test_loopback(host: str, expected: bool) -> None:
    """What only this machine reaches."""
    assert is_loopback(host) is expected


def scope(origin: str | None, host: str | None = "gateway:8600", scheme: str = "http") -> dict[str, Any]:
    headers = [(b"host", host.encode())] if host else []
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    return {"headers": headers, "scheme": scheme}


def test_a_listed_origin_is_named_and_no_star_ever() -> None:
    """With credentials, since sessions are cookies."""
    cors = Cors(["https://app.example.com/", "http://localhost:5173"])
    headers = dict(cors.headers(scope("https://app.example.com")))
    assert headers[b"access-control-allow-origin"] == b"https://app.example.com"
    assert headers[b"vary"] == b"origin"
    assert b"*" not in headers.values()


@pytest.mark.parametrize(
    ("origin", "host", "scheme"),
    [
        (None, "gateway:8600", "http"),
        ("http://gateway:8600", "gateway:8600", "http"),
        ("http://GATEWAY", "gateway:80", "http"),
        ("https://gateway", "gateway", "https"),
        ("https://tail.example.com", "10.0.0.1:8600", "http"),
    ],
)
def test_no_origin_or_our_own_needs_no_listing(origin: str | None, host: str, scheme: str) -> None:
    """And gets no Access-Control header."""
    cors = Cors([], public_url="https://tail.example.com/x")
    assert list(cors.headers(scope(origin, host, scheme))) == []


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://gateway", "https://gateway:8600", "x", "http://["]
)
def test_other_origins_are_refused_in_words_and_logged(origin: str) -> None:
    """403 with what is allowed and what to set."""
    with capture_logs() as logs, pytest.raises(Problem) as caught:
        Cors(["http://localhost:5173"]).headers(scope(origin))
    problem = caught.value
    assert (problem.status, problem.type, problem.value) == (403, "cors-refused", origin)
    assert problem.detail == f"origin {origin} may not read this gateway (allowed: http://localhost:5173)."
    assert problem.remedy == (
        f"Set TAILRACE_CORS_ORIGINS=http://localhost:5173,{origin}, "
        "or return FeedResponse from a route of the page's own server."
    )
    assert [entry["event"] for entry in logs] == ["cors_refused"]


@pytest.mark.parametrize(
    "host",
    [
        None,
        "localhost",
        "LOCALHOST:8600",
        "127.0.0.1:8600",
        "127.1.2.3",
        "[::1]:8600",
        "a.localhost",
        "tail.example.com",
    ],
)
def test_an_open_gateway_answers_by_names_of_its_machine(host: str | None) -> None:
    """And by the one at which a proxy shows it; HTTP/1.0 names none."""
    check_host(scope(None, host), "https://tail.example.com/x")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8600",
        "localhost.evil.example",
        "0.0.0.0",
        "127.0.0.1.evil.example",
        "[",
        "a@b",
        ":80",
    ],
)
def test_an_open_gateway_does_not_answer_by_others(host: str) -> None:
    """A page whose name was pointed at 127.0.0.1 has an origin that equals the Host."""
    with capture_logs() as logs, pytest.raises(Problem) as caught:
        check_host(scope(f"http://{host}", host), None)
    problem = caught.value
    assert (problem.status, problem.type, problem.field, problem.value) == (403, "denied", "Host", host)
    assert [entry["event"] for entry in logs] == ["host_refused"]


def test_each_of_several_hosts_is_judged() -> None:
    """Whichever of them somebody on the way went by."""
    twice = {"headers": [(b"host", b"localhost"), (b"host", b"evil.example")], "scheme": "http"}
    with pytest.raises(Problem):
        check_host(twice, None)


def test_preflight_tells_a_listed_origin_what_it_may_send() -> None:
    """And nothing to others."""
    cors = Cors(["http://localhost:5173"])
    headers = dict(cors.preflight(scope("http://localhost:5173"), "GET, POST"))
    assert headers[b"access-control-allow-methods"] == b"GET, POST"
    assert b"last-event-id" in headers[b"access-control-allow-headers"]
    assert list(cors.preflight(scope("https://evil.example"), "GET")) == []
    assert list(cors.preflight(scope(None), "GET")) == []
