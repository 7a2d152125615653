"""The gateway as an ASGI app: mounted in somebody's application, or alone with namespaces at /api/{namespace}."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import structlog
from redis.exceptions import RedisError

from gateway.auth import Access, Authorize, Cors, check_host, everyone
from gateway.core.negotiate import Form
from gateway.core.path import base_of, segments_of
from gateway.core.problems import Headers, Problem, from_error
from gateway.response import hold, open_stream
from gateway.routes.console import get_console, get_script, not_found
from gateway.routes.exchange import SERVER_SECONDS, ClientGone, Exchange, Message, Receive, Scope, Send
from gateway.routes.groups import get_group, get_groups
from gateway.routes.live import get_live
from gateway.routes.ops import get_health, get_metrics, get_ready
from gateway.routes.produce import post_events
from gateway.routes.read import cursor_of, form_of, get_lines, get_page, wait_for
from gateway.routes.runs import get_run, get_runs, post_cancel, post_input, post_run
from gateway.subscriber import Subscriber
from gateway.unfinished import leave_unfinished
from processor.core.errors import TailraceError
from processor.core.names import check_namespace, check_run
from processor.observe import metrics
from processor.observe.logs import redact_access_logs
from processor.store.connection import server_error
from processor.store.topology import read_topology

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Gateway", "Standalone", "standalone"]

log = structlog.get_logger("tailrace.gateway")
# Answers; a stream that goes on is returned, so that a connection keeps no more than it must while it is open.
Handler = Callable[..., Awaitable[Subscriber | None]]


class Route(NamedTuple):
    """What an address means: a name for metrics and logs, what each method does, and the names in the address."""

    name: str
    methods: Mapping[str, Handler]
    names: Sequence[str] = ()

    @property
    def allow(self) -> str:
        methods = {*self.methods, "OPTIONS"} | ({"HEAD"} if "GET" in self.methods else set())
        return ", ".join(sorted(methods))


async def get_events(exchange: Exchange, run: str) -> Subscriber | None:
    """A feed in the form that the reader asks for."""
    check_run(run)
    until = await exchange.permit(Access("read", run))
    form = form_of(exchange)
    cursor = cursor_of(exchange)
    await wait_for(exchange, run)
    if exchange.unseen:  # it may have begun since, and be somebody's
        until = await exchange.permit(Access("read", run))
    if form is Form.SSE:
        session = await exchange.session()
        return await open_stream(exchange.scope, exchange.send, session, run, cursor, until=until)
    await (get_page if form is Form.JSON else get_lines)(exchange, run, cursor)
    return None


_RUNS = Route("runs", {"GET": get_runs, "POST": post_run})
_RUN: Mapping[str, Handler] = {"GET": get_run}
_OF_RUN: Mapping[str, Mapping[str, Handler]] = {
    "events": {"GET": get_events, "POST": post_events},
    "cancel": {"POST": post_cancel},
    "inputs": {"POST": post_input},
}
_ROOT: Mapping[str, Handler] = {
    "healthz": get_health,
    "readyz": get_ready,
    "metrics": get_metrics,
    "tailrace.js": get_script,
}


def api_route(segments: Sequence[str]) -> Route | None:
    """Routes of a namespace."""
    match segments:
        case ["runs"]:
            return _RUNS
        case ["runs", run] if run:
            return Route("run", _RUN, [run])
        case ["runs", run, part] if run and part in _OF_RUN:
            return Route(part, _OF_RUN[part], [run])
        case ["live"]:
            return Route("live", {"GET": get_live})
        case ["groups"]:
            return Route("groups", {"GET": get_groups})
        case ["groups", group] if group:
            return Route("group", {"GET": get_group}, [group])
        case _:
            return None


def root_route(segments: Sequence[str]) -> Route | None:
    """Routes of the process."""
    match segments:
        case []:
            return Route("console", {"GET": get_console})
        case ["console", *path] if path:
            return Route("console", {"GET": get_console}, path)
        case [name] if name in _ROOT:
            return Route(name, {"GET": _ROOT[name]})
        case _:
            return None


class Gateway:
    """All routes of a namespace and of the process, to mount in an application; needs no lifespan.

    authorize has no default: `everyone` opens it. cors_origins: pages of other origins that may read, besides those of
    TAILRACE_CORS_ORIGINS. console: serve it at the mount's root.
    """

    standalone = False

    def __init__(
        self, tail: Tailrace, *, authorize: Authorize, console: bool = False, cors_origins: Sequence[str] = ()
    ) -> None:
        self.tail = tail
        self.authorize = authorize
        self.console = console
        self.api = "."  # where the console finds the API, relative to its own address
        settings = tail.settings
        redact_access_logs()
        self.cors = Cors([*settings.cors_origins, *cors_origins], public_url=settings.public_url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            stream = await self._serve(scope, receive, send)
            if stream is not None:
                await hold(stream, receive)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        """Nothing depends on a lifespan; a server that offers one gets its answers."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    async def close(self) -> None:
        """Ends what the gateway opened in this loop by itself; its Tailrace is its owner's."""

    def _check_host(self, scope: Scope) -> None:
        """A mounted gateway answers by the names that its application does."""

    async def _find(self, segments: Sequence[str]) -> tuple[Gateway, Route | None, str]:
        """Whose route an address is, the route, and what stands between the mount and it."""
        return self, api_route(segments) or root_route(segments), ""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> Subscriber | None:
        """Answers a request; what it returns has begun and has to be held."""
        answer = _Answer(send)
        exchange = Exchange(self, scope, receive, answer, base_of(scope))
        try:
            return await self._answer(exchange, answer)
        except ClientGone:
            pass
        except Problem as problem:
            await _refuse(exchange, answer, problem)
        except TailraceError as error:
            log.warning("request_refused", route=exchange.route, code=error.code, error=error.message)
            await _refuse(exchange, answer, from_error(error, draw=random.random()))
        except (RedisError, ConnectionError, TimeoutError) as error:
            told = server_error(error, self.tail.settings.redis_url or "")
            log.warning("server_failed", route=exchange.route, code=told.code, error=told.message)
            await _refuse(exchange, answer, from_error(told, draw=random.random()))
        except Exception:  # the service's edge: a bug is told to nobody but the log
            log.exception("request_failed", route=exchange.route, method=exchange.method)
            await _refuse(exchange, answer, Problem("internal", "This is a bug of the gateway; its log says more."))
        finally:
            metrics.requests_total.labels(route=exchange.route, status=str(answer.status or "none")).inc()
        return None

    async def _answer(self, exchange: Exchange, answer: _Answer) -> Subscriber | None:
        scope = exchange.scope
        self._check_host(scope)
        if exchange.method != "OPTIONS":
            answer.headers = self.cors.headers(scope)
        segments = segments_of(scope)
        if segments is None:
            location = f"{exchange.base}/".encode()
            await exchange.answer_empty(307, [(b"location", location), (b"content-length", b"0")])
            return None
        exchange.gateway, route, inner = await self._find(segments)
        exchange.base += inner
        if route is None:
            raise not_found(exchange)
        exchange.route = route.name
        if exchange.method == "OPTIONS":
            preflight = self.cors.preflight(scope, route.allow)
            await exchange.answer_empty(204, [(b"allow", route.allow.encode()), *preflight])
            return None
        handler = route.methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if handler is None:
            raise Problem(
                "method",
                f"{exchange.method[:40]} is not allowed here.",
                value=exchange.method,
                remedy=f"Use {route.allow}.",
                headers=[(b"allow", route.allow.encode())],
            )
        return await handler(exchange, *route.names)


class Standalone(Gateway):
    """`tailrace gateway`: every namespace that exists at /api/{namespace}, routes of the process at the root.

    open: nobody is asked, so it may be bound to loopback only (gateway.auth.is_loopback), and answers by names of this
    machine only.
    """

    standalone = True

    def __init__(
        self,
        tail: Tailrace,
        *,
        authorize: Authorize | None = None,
        console: bool = False,
        cors_origins: Sequence[str] = (),
    ) -> None:
        super().__init__(tail, authorize=authorize or everyone, console=console, cors_origins=cors_origins)
        self.open = authorize is None
        self.api = f"api/{tail.settings.namespace}"
        self._namespaces: dict[str, Gateway] = {tail.settings.namespace: self}

    def _check_host(self, scope: Scope) -> None:
        if self.open:
            check_host(scope, self.tail.settings.public_url)

    async def _find(self, segments: Sequence[str]) -> tuple[Gateway, Route | None, str]:
        match segments:
            case ["api", namespace, *rest]:
                check_namespace(namespace)
                route = api_route(rest)
                gateway = self if route is None else await self._of(namespace)
                return gateway, route, f"/api/{namespace}"
            case _:
                return self, root_route(segments), ""

    async def _of(self, namespace: str) -> Gateway:
        """Raises Problem unknown-namespace: only libraries and commands make one."""
        known = self._namespaces.get(namespace)
        if known is not None:
            return known
        session = await self.tail.session()
        async with asyncio.timeout(SERVER_SECONDS):
            there = await read_topology(session.redis, namespace)
        if there is None:
            raise Problem(
                "unknown-namespace",
                f"There is no namespace {namespace}.",
                field="namespace",
                value=namespace,
                remedy=f"Create it with `tailrace namespaces create {namespace}`.",
            )
        gateway = Gateway(self.tail.in_namespace(namespace), authorize=self.authorize)
        return self._namespaces.setdefault(namespace, gateway)

    async def close(self) -> None:
        """Ends the connections of namespaces other than its Tailrace's."""
        for gateway in self._namespaces.values():
            if gateway is not self:
                await gateway.tail.close()


def standalone(
    tail: Tailrace, *, authorize: Authorize | None = None, console: bool = False, cors_origins: Sequence[str] = ()
) -> Standalone:
    """The app of `tailrace gateway`, `up` and `demo`. Without authorize: for loopback only."""
    return Standalone(tail, authorize=authorize, console=console, cors_origins=cors_origins)


class _Answer:
    """The server's `send`, with headers for every answer; knows whether one began."""

    __slots__ = ("_send", "headers", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.headers: Headers = ()
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        """No coroutine of its own: streams come through here with each frame."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.headers:
                message = {**message, "headers": [*message["headers"], *self.headers]}
        return self._send(message)


async def _refuse(exchange: Exchange, answer: _Answer, problem: Problem) -> None:
    if answer.status:  # an answer that began can only break off; its client sees that it is not whole
        leave_unfinished()
        log.warning("answer_broken", route=exchange.route, problem=problem.type, detail=problem.detail)
        return
    await problem.send(exchange.scope, answer)
