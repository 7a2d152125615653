"""Raw path -> segments: one decoding, whatever the app is mounted under."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.core.path import base_of, segments_of
from gateway.core.problems import Problem


def scope(raw: str, root: str = "", **more: Any) -> dict[str, Any]:
    return {"path": unquote(raw), "raw_path": raw.encode(), "root_path": root, **more}


@pytest.mark.parametrize(
    ("raw", "root", "expected"),
    [
        ("/", "", []),
        ("/runs", "", ["runs"]),
        ("/runs/", "", ["runs", ""]),
        ("//runs", "", ["", "runs"]),
        ("/runs/a%2Fb/events", "", ["runs", "a/b", "events"]),
        ("/runs/a%252Fb", "", ["runs", "a%2Fb"]),
        ("/runs/a%7Eb", "", ["runs", "a~b"]),
        ("/runs/%zz", "", ["runs", "%zz"]),
        ("/runs/..", "", ["runs", ".."]),
        ("/runs/a+b", "", ["runs", "a+b"]),
        ("/tail", "/tail", None),
        ("/tail/", "/tail", []),
        ("/tail/runs/x", "/tail", ["runs", "x"]),
        ("/tailor/runs", "/tail", ["tailor", "runs"]),
        ("/a/tail/runs", "/a/tail", ["runs"]),
        ("/t%61il/runs", "/tail", ["runs"]),
        ("/te%20am/runs/a%2Fb", "/te am", ["runs", "a/b"]),
        ("/runs", "/proxy", ["runs"]),
    ],
)
def test_segments_behind_the_mount(raw: str, root: str, expected: list[str] | None) -> None:
    """Encoded slashes stay inside their segment; a prefix counts only up to a slash."""
    assert segments_of(scope(raw, root)) == expected


def test_a_root_path_that_the_path_does_not_have_is_passed_over() -> None:
    """FastAPI(root_path=…) behind a proxy that strips it, with a mount inside."""
    assert segments_of(scope("/tail/runs", "/proxy/tail", app_root_path="/proxy")) == ["runs"]


def test_a_query_in_the_raw_path_is_no_part_of_it() -> None:
    """Some servers leave it there."""
    assert segments_of({"path": "/runs", "raw_path": b"/runs?after=0", "root_path": ""}) == ["runs"]


def test_without_a_raw_path_the_decoded_one_serves() -> None:
    """raw_path is optional in ASGI."""
    assert segments_of({"path": "/runs/ä%", "root_path": ""}) == ["runs", "ä%"]


def test_what_is_not_utf8_is_a_bad_name() -> None:
    """400 rather than a replacement character."""
    with pytest.raises(Problem) as caught:
        segments_of(scope("/runs/%ff"))
    assert caught.value.type == "bad-name"


@given(st.lists(st.text(min_size=1).filter(lambda s: s < "\ud800" or s > "\udfff"), min_size=1, max_size=4))
def test_every_name_comes_back_from_its_encoding(names: list[str]) -> None:
    """Encoded once by a client, decoded once here."""
    from urllib.parse import quote

    try:
        raw = "/" + "/".join(quote(name, safe="") for name in names)
    except UnicodeEncodeError:
        return
    assert segments_of({"path": "ignored", "raw_path": raw.encode(), "root_path": ""}) == names


async def test_under_starlettes_mounts() -> None:
    """Nested mounts of starlette 1.x give what the app itself would get at the root."""
    seen: list[list[str] | None] = []
    bases: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(segments_of(scope))
        bases.append(base_of(scope))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    outer = Starlette(routes=[Mount("/a b", routes=[Mount("/tail", app)])])
    for root, address in [("/proxy", "/proxy/a%20b/tail/runs/x%2Fy"), ("", "/a%20b/tail/runs")]:
        transport = httpx.ASGITransport(app=outer, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await client.get(address)
    assert seen == [["runs", "x/y"], ["runs"]]
    assert bases == ["/proxy/a%20b/tail", "/a%20b/tail"]
