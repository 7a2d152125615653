"""Signed links: a URL that reads one run at the gateway, and nothing else, until it expires."""

from __future__ import annotations

import time
from urllib.parse import quote

import jwt

from processor.core.errors import SettingsError
from processor.core.settings import Settings

__all__ = ["link_to"]


def link_to(settings: Settings, run: str, seconds: int) -> str:
    """Raises SettingsError without a key."""
    if not settings.jwt_key:
        raise SettingsError(
            "TAILRACE_JWT_KEY is not set, and no `tailrace up` keeps a key for this folder: links cannot be signed.",
            remedy="Set it to what `openssl rand -hex 32` prints, here and at the gateway.",
        )
    claims = {"ns": settings.namespace, "run": run, "exp": int(time.time()) + seconds}
    token = jwt.encode(claims, settings.jwt_key, algorithm="HS256")
    base = settings.public_url or f"http://{settings.host}:{settings.port}"
    return f"{base}/api/{settings.namespace}/runs/{quote(run, safe='~:')}/events?token={token}"
