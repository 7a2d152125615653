"""tailrace's gateway: feeds over HTTP and SSE, as routes of an application's own or as a whole."""

from __future__ import annotations

from gateway.app import Gateway
from gateway.auth import Access, Authorize, Grant, everyone
from gateway.failures import problem
from gateway.response import FeedResponse

__all__ = ["Access", "Authorize", "FeedResponse", "Gateway", "Grant", "everyone", "problem"]
