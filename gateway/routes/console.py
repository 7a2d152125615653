"""The console's files and tailrace.js: static, checked by their ETag, with the address of the API filled in."""

from __future__ import annotations

import functools
import hashlib
import mimetypes
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from gateway.core.problems import Problem
from gateway.routes.exchange import Exchange

__all__ = ["get_console", "get_script", "not_found"]

_META = '<meta name="tailrace-api" content="%s">'
_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}
# Its own files, this origin's API and nothing else: what agents write is shown there, and must not become code.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class _File(NamedTuple):
    body: bytes
    media: str
    etag: bytes


async def get_console(exchange: Exchange, *path: str) -> None:
    """The page for no path, else a file of gateway/console."""
    if not exchange.gateway.console:
        raise not_found(exchange)
    if not path:
        page = _read("console", "index.html")
        if page is None:
            raise not_found(exchange)
        await _answer(exchange, _with_api(page, exchange.gateway.api))
        return
    file = _read("console", *path)
    if file is None:
        raise not_found(exchange)
    await _answer(exchange, file)


async def get_script(exchange: Exchange) -> None:
    """tailrace.js, which pages import."""
    script = _read("tailrace.js")
    if script is None:
        raise not_found(exchange)
    await _answer(exchange, script)


def not_found(exchange: Exchange) -> Problem:
    """404 for an address that nobody knows."""
    path = str(exchange.scope["path"])
    return Problem(
        "not-found",
        f"There is nothing at {path[:200]}.",
        field="path",
        value=path,
        remedy="Runs are at /runs below the gateway's address; a standalone gateway has it at /api/<namespace>.",
    )


@functools.lru_cache(maxsize=256)
def _read(*path: str) -> _File | None:
    """A file of the package; None if there is none. Names with a dot in front are none of ours."""
    found: Traversable = files("gateway")
    for name in path:
        if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name or name == "__pycache__":
            return None
        found = found.joinpath(name)
    try:
        if not found.is_file():
            return None
    except OSError:  # a name longer than a file system takes
        return None
    return _file(found.read_bytes(), path[-1])


def _file(body: bytes, name: str) -> _File:
    suffix = name[name.rfind(".") :] if "." in name else ""
    media = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    if media.startswith("text/"):
        media += "; charset=utf-8"
    return _File(body, media, b'"%b"' % hashlib.sha256(body).hexdigest()[:32].encode())


@functools.lru_cache(maxsize=64)
def _with_api(page: _File, api: str) -> _File:
    """The page with the API's address, relative to its own."""
    text = page.body.decode().replace(_META % ".", _META % api, 1)
    return _file(text.encode(), "index.html")


async def _answer(exchange: Exchange, file: _File) -> None:
    headers = [
        (b"etag", file.etag),
        (b"cache-control", b"no-cache"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
    if file.media.startswith("text/html"):
        headers.append((b"content-security-policy", _POLICY))
    wanted = exchange.header("if-none-match") or ""
    if file.etag.decode() in (tag.strip().removeprefix("W/") for tag in wanted.split(",")) or wanted.strip() == "*":
        await exchange.answer_empty(304, headers)
        return
    await exchange.answer(200, file.body, file.media, headers)
