"""What answers have in common."""

from __future__ import annotations

import json
from typing import Any

import httpx

__all__ = ["NDJSON", "lines_of", "post", "problem_of"]

NDJSON = {"Accept": "application/x-ndjson"}
_MEMBERS = ["type", "title", "status", "detail", "field", "value", "remedy"]


def problem_of(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem that a response is, its shape checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert list(problem)[:7] == _MEMBERS
    assert (problem["type"], problem["status"]) == (slug, status)
    assert problem["detail"]
    assert problem["remedy"]
    if "results" not in problem:
        assert len(response.content) <= 4096
    return problem


async def post(http: httpx.AsyncClient, run: str, *types: str, **headers: str) -> list[str]:
    """Appends events of these types; their IDs."""
    response = await http.post(f"/runs/{run}/events", json=[{"type": type} for type in types], headers=headers)
    assert response.status_code == 200, response.text
    return [result["id"] for result in response.json()["results"]]


async def lines_of(http: httpx.AsyncClient, run: str, **parameters: str) -> list[dict[str, Any]]:
    """The feed as NDJSON, parsed."""
    response = await http.get(f"/runs/{run}/events", headers=NDJSON, params=parameters)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.content.split(b"\n") if line]
