"""Errors of tailrace in an application's own routes, answered as the gateway answers them."""

from __future__ import annotations

import random

import structlog
from starlette.requests import Request
from starlette.responses import Response

from gateway.core.problems import MEDIA_TYPE, STATUS, from_error
from processor.core.errors import NotConfigured, ServerError, TailraceError

__all__ = ["problem"]

log = structlog.get_logger("tailrace.gateway")


async def problem(request: Request, error: Exception) -> Response:
    """For `app.add_exception_handler(TailraceError, problem)`: an unknown run is 404, a busy thread 409, and so on.

    Errors that are not the request's, such as the failure of a run whose result was awaited, are raised on.
    """
    servers = isinstance(error, (NotConfigured, ServerError))
    if not isinstance(error, TailraceError) or not (servers or error.code in STATUS):
        raise error
    if servers:  # the answer does not say which server, and why
        log.warning("server_failed", route=request.url.path, code=error.code, error=error.message)
    answer = from_error(error, draw=random.random())
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.json(), answer.status, {"cache-control": "no-store", **headers}, MEDIA_TYPE)
