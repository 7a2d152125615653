"""The part of a request's address that is ours, as segments.

The raw path decides: servers and starlette decode the whole path before anybody routes, and an encoded slash inside a
name would look like two segments. Each segment is decoded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from gateway.core.problems import Problem

__all__ = ["base_of", "segments_of"]


def segments_of(scope: Mapping[str, Any]) -> list[str] | None:
    """The decoded segments behind the mount; [] for its root with a slash, None without one.

    scope: an ASGI scope; `path` and `raw_path` begin with `root_path` where the server or starlette's mount says so.
    Raises Problem bad-name: a segment is not UTF-8.
    """
    raw = _own_part(_raw_path(scope), scope)
    if raw == b"":
        return None
    segments = raw.split(b"/")[1:]
    return [] if segments == [b""] else [_decoded(segment) for segment in segments]


def base_of(scope: Mapping[str, Any]) -> str:
    """The address of the mount as a client spells it, without a last slash: what Location begins with."""
    return quote(str(scope.get("root_path", "")), safe="/:@!$&'()*+,;=~-._").rstrip("/")


def _raw_path(scope: Mapping[str, Any]) -> bytes:
    raw: bytes | None = scope.get("raw_path")
    if not raw:  # optional in ASGI; without it an encoded slash cannot be told from a slash
        return quote(scope["path"], safe="/:@!$&'()*+,;=~").encode()
    return raw.partition(b"?")[0]


def _own_part(raw: bytes, scope: Mapping[str, Any]) -> bytes:
    """What follows the mount's path, which stands in `root_path` decoded."""
    root = str(scope.get("root_path", ""))
    outer = str(scope.get("app_root_path", ""))
    # FastAPI(root_path="/proxy") puts a prefix there that the path does not have; a mount adds its own behind it
    for prefix in (root, root[len(outer) :] if outer and root.startswith(outer) else ""):
        rest = _behind(raw, prefix.encode())
        if rest is not None:
            return rest
    return raw


def _behind(raw: bytes, prefix: bytes) -> bytes | None:
    """The raw path behind a decoded prefix that ends at a slash or at its end; None if it does not begin so."""
    at = 0
    while True:
        cut = raw.find(b"/", at)
        end = len(raw) if cut < 0 else cut
        if unquote_to_bytes(raw[:end]) == prefix:
            return raw[end:]
        if cut < 0 or end > 3 * len(prefix):
            return None
        at = cut + 1


def _decoded(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise Problem(
            "bad-name",
            "The path is not UTF-8 after percent-decoding.",
            field="path",
            value=segment.decode("ascii", "backslashreplace"),
            remedy="Encode names as UTF-8, or better keep to the allowed characters.",
        ) from error
