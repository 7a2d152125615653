"""Problems: one shape for every refusal, small whatever came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import problems
from gateway.core.problems import STATUS, Problem, from_error, retry_after_seconds
from processor.core import errors
from processor.core.errors import (
    BacklogFull,
    BadName,
    IllegalEvent,
    RunClosed,
    RunNotFound,
    ServerUnreachable,
    ThreadBusy,
)

MEMBERS = ["type", "title", "status", "detail", "field", "value", "remedy"]


def test_the_members_stand_in_wires_order() -> None:
    """type title status detail field value remedy, then what the type adds; null where nothing came."""
    body = json.loads(Problem("hole", extra={"stored": 7}).json())
    assert list(body) == [*MEMBERS, "stored"]
    assert (body["type"], body["status"], body["field"], body["value"], body["stored"]) == ("hole", 409, None, None, 7)


@given(
    detail=st.text(max_size=20000),
    value=st.none() | st.text(max_size=5000),
    field=st.none() | st.text(max_size=5000),
    remedy=st.text(max_size=5000),
)
def test_a_problem_is_at_most_4_kib_whatever_came(
    detail: str, value: str | None, field: str | None, remedy: str
) -> None:
    """One line of ASCII; value is cut at 200 characters."""
    body = Problem("bad-event", detail, value=value, field=field, remedy=remedy).json()
    assert len(body) <= 4096
    assert b"\n" not in body
    assert json.loads(body)["value"] == (None if value is None else value[:200])


def test_the_worst_texts_fit() -> None:
    """Lone surrogates and control characters take six bytes each."""
    body = Problem("bad-event", "\ud800" * 9999, value="\x00" * 9999, field="\x01" * 9999, remedy="\x02" * 9999).json()
    assert len(body) <= 4096


def test_results_are_kept_whole() -> None:
    """One result per event of the body, however long that makes the answer."""
    results = [{"outcome": "appended", "id": f"{i}-1795506276265"} for i in range(256)]
    assert json.loads(Problem("hole", extra={"results": results, "index": 0}).json())["results"] == results


def test_every_slug_has_a_title() -> None:
    """None is left to speak for itself."""
    assert set(problems._TITLES) == set(STATUS)


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_status_of_its_own(name: str) -> None:
    """And never 500, which means a bug; what is wrong with the server is one of WIRE's four, without its address."""
    kind = getattr(errors, name)
    error = kind("r1", 1, 2) if name == "EventsLost" else kind()
    problem = from_error(error, draw=0.5)
    if isinstance(error, errors.ServerError | errors.NotConfigured):
        assert (problem.status, problem.type) in {(503, slug) for slug in STATUS if slug.startswith("server-")}
        assert "TAILRACE" not in problem.detail
    else:
        assert problem.type == error.code
    assert 400 <= problem.status <= 503
    assert problem.status != 500


@pytest.mark.parametrize(
    ("error", "status", "extra"),
    [
        (BadName("x", field="run", value="a/b"), 400, {}),
        (RunNotFound(run="r1"), 404, {}),
        (RunClosed(run="r1", status="failed"), 409, {"run_status": "failed"}),
        (IllegalEvent(status="waiting", type="run.started"), 409, {"from": "waiting", "event_type": "run.started"}),
        (ThreadBusy(run="t~1"), 409, {"run": "t~1"}),
        (BacklogFull(group="mail", retry_after_seconds=3), 429, {"group": "mail"}),
        (ServerUnreachable(), 503, {}),
    ],
)
def test_errors_bring_the_members_of_their_type(error: Any, status: int, extra: dict[str, object]) -> None:
    """As WIRE 3 lists them."""
    problem = from_error(error)
    assert (problem.status, problem.extra) == (status, extra)
    assert bool(dict(problem.headers).get(b"retry-after")) == (status in (429, 503))


def test_retry_after_is_spread() -> None:
    """Whole seconds from 1 to 5."""
    assert {retry_after_seconds(n / 100) for n in range(100)} == {1, 2, 3, 4, 5}
    assert dict(from_error(BacklogFull(retry_after_seconds=0)).headers)[b"retry-after"] == b"1"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_answer(method: str) -> None:
    """application/problem+json with a length; HEAD gets no body."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    problem = Problem("method", headers=[(b"allow", b"GET")])
    await problem.send({"method": method}, send, [(b"vary", b"origin")])
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 405
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"content-length"] == str(len(problem.json())).encode()
    assert (headers[b"allow"], headers[b"vary"]) == (b"GET", b"origin")
    assert sent[1]["body"] == (problem.json() if method == "GET" else b"")
