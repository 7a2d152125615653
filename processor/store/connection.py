"""Connections of one process and event loop to one server.

Appends and PubSub use `Wire`, a bare protocol on hiredis (redis-py costs half of the throughput there); everything else goes
through a blocking redis-py pool.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from urllib.parse import urlsplit

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from processor.core.errors import (
    ServerDenied,
    ServerError,
    ServerFull,
    ServerReadOnly,
    ServerUnreachable,
    SettingsError,
)

__all__ = [
    "Address",
    "OneConnection",
    "Wire",
    "commands",
    "execute",
    "one_connection",
    "pack",
    "redact",
    "server_error",
    "speaking_of",
    "uncancelled",
]

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 5.0
POOL_CONNECTIONS: Final = 32
_AWAY = (OSError, RedisConnectionError, RedisTimeoutError, asyncio.TimeoutError)
_CLOSED = "the handler is closed"  # uvloop's words
_DENIED = (AuthenticationError, NoPermissionError)
_BUSY = ("LOADING", "MASTERDOWN", "TRYAGAIN", "BUSY", "CLUSTERDOWN")  # the server is there and will take it soon


def redact(url: str) -> str:
    """The URL without its password, for messages and logs."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@", 1)


def server_error(error: BaseException | str, url: str) -> ServerError:
    """What the server, or the way to it, said, in tailrace's words."""
    text = str(error)
    where = redact(url)
    if isinstance(error, ServerError):
        return error
    if text.startswith("READONLY") or "read only replica" in text:  # redis-py takes the first word off
        return ServerReadOnly(
            f"{where} is a replica or read-only: {text}", remedy="Point TAILRACE_REDIS_URL to the primary."
        )
    if text.startswith(("OOM", "MISCONF")) or "command not allowed when used memory" in text:
        return ServerFull(
            f"{where} refuses writes: {text}",
            remedy="Free memory or disk, or raise maxmemory; tailrace goes on by itself.",
        )
    if isinstance(error, _DENIED) or text.startswith(("NOPERM", "NOAUTH", "WRONGPASS")):
        return ServerDenied(
            f"{where} does not permit this: {text}", remedy="docs/deploy.md has the rights that its user needs."
        )
    if isinstance(error, _AWAY) or text.startswith(_BUSY):
        return ServerUnreachable(f"nothing answers at {where} ({text or type(error).__name__}).")
    return ServerError(f"{where} answers: {text}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, from a redis://, rediss:// or unix:// URL."""

    url: str
    host: str = "localhost"
    port: int = 6379
    path: str | None = None  # of a unix socket
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None
    db: int = 0

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises SettingsError."""
        try:
            parts: dict[str, Any] = dict(parse_url(url))
        except ValueError as error:
            raise SettingsError(
                f"{redact(url)!r} is no server's URL: {error}",
                remedy="Give redis://user:password@host:port/0, rediss://… or unix:///path/to/socket.",
            ) from error
        return cls(
            url=url,
            host=parts.get("host", "localhost"),
            port=int(parts.get("port", 6379)),
            path=parts.get("path"),
            tls=_tls_context(parts) if urlsplit(url).scheme == "rediss" else None,
            username=parts.get("username"),
            password=parts.get("password"),
            db=int(parts.get("db", 0)),
        )


def _tls_context(parts: Mapping[str, Any]) -> ssl.SSLContext:
    """As redis-py makes it for the other connections: the URL's ssl_… options say what is checked, and by which files."""
    options = {name: value for name, value in parts.items() if name.startswith("ssl_")}
    return SSLConnection(**options).ssl_context.get()


def pack(*args: bytes | str | int) -> bytes:
    """A command as the server reads it."""
    packer: Any = hiredis.pack_command  # its stub knows commands of one word only
    packed: bytes = packer(args)
    return packed


class Wire(asyncio.Protocol):
    """One raw RESP2 connection. Replies come to `on_reply` in order, errors as hiredis.ReplyError values, never raised.

    `on_lost` is called once when the connection ends, by whom ever, and not if it was never made.
    """

    def __init__(self, on_reply: Callable[[Any], None], on_lost: Callable[[BaseException | None], None]) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._on_reply = on_reply
        self._on_lost: Callable[[BaseException | None], None] | None = on_lost
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(
        cls,
        address: Address,
        *,
        on_reply: Callable[[Any], None],
        on_lost: Callable[[BaseException | None], None],
        name: str = "tailrace",
    ) -> Wire:
        """Connects, authenticates, selects the database. Raises ServerError."""
        loop = asyncio.get_running_loop()
        greeted: asyncio.Future[None] = loop.create_future()
        hello = _greeting(address, name)
        answers: list[Any] = []

        def greet(reply: Any) -> None:
            answers.append(reply)
            if len(answers) == len(hello) and not greeted.done():
                greeted.set_result(None)

        def lost(error: BaseException | None) -> None:
            if not greeted.done():
                greeted.set_exception(error or ConnectionResetError("connection closed by server"))

        wire = cls(greet, lost)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if address.path is not None:
                    await loop.create_unix_connection(lambda: wire, address.path)
                else:
                    await loop.create_connection(lambda: wire, address.host, address.port, ssl=address.tls)
                wire.send(b"".join(pack(*command) for command in hello))
                await greeted
        except (OSError, TimeoutError) as error:
            wire.close()
            raise server_error(error, address.url) from error
        except BaseException:
            wire.close()
            raise
        refused = [answer for answer in answers[: len(hello) - 1] if isinstance(answer, hiredis.ReplyError)]
        if refused:
            wire.close()
            raise server_error(refused[0], address.url)
        wire._on_reply, wire._on_lost = on_reply, on_lost
        return wire

    def send(self, packed: bytes) -> None:
        if self._transport is not None:
            self._transport.write(packed)

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def close(self) -> None:
        """Ends the connection; `on_lost` is not called any more."""
        self._on_lost = None
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        next_reply = self._reader.gets
        while (reply := next_reply()) is not _NOTHING:
            self._on_reply(reply)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        on_lost, self._on_lost = self._on_lost, None
        if on_lost is not None:
            on_lost(exc)


_NOTHING: Final = object()


def _greeting(address: Address, name: str) -> list[tuple[bytes | str | int, ...]]:
    """Commands of a new connection. The last one may be refused (SETNAME by an ACL), the others must not."""
    hello: list[tuple[bytes | str | int, ...]] = []
    if address.password is not None:
        hello.append(("AUTH", address.username, address.password) if address.username else ("AUTH", address.password))
    if address.db:
        hello.append(("SELECT", address.db))
    hello.append(("CLIENT", "SETNAME", name))
    return hello


def commands(address: Address) -> Redis:
    """A redis-py client for everything but appends and PubSub: waits for a free connection, retries what is idempotent.

    RESP2, so that replies have one shape on every server; bytes in, bytes out.
    """
    pool = BlockingConnectionPool.from_url(
        address.url,
        max_connections=POOL_CONNECTIONS,
        timeout=COMMAND_SECONDS,
        protocol=2,
        socket_timeout=COMMAND_SECONDS,
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 3),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    return Redis.from_pool(pool)  # so that closing the client closes the pool


async def execute(redis: Redis | OneConnection, *command: bytes | str | int) -> Any:
    """A raw command; the reply as RESP2 has it."""
    untyped: Any = redis
    return await uncancelled(untyped.execute_command(*command))


async def uncancelled(call: Awaitable[T]) -> T:
    """What a call of redis-py gives, cancellation included: it uses wait_for, and Python 3.11's swallows a cancellation
    that comes in the same turn of the loop as the result, which may be an error such as NOSCRIPT.

    A write to a connection that was reset a moment ago is a RuntimeError in uvloop; redis-py does not take it for a lost one.
    """
    task = asyncio.current_task()
    # One that came while the task ran, by the handler of a signal say, is counted already, and the call is the first to hear of it.
    before = task.cancelling() - bool(getattr(task, "_must_cancel", False)) if task is not None else 0
    try:
        return await call
    except RuntimeError as error:
        if _CLOSED in str(error):
            raise RedisConnectionError(str(error)) from error
        raise
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


class OneConnection:
    """Commands over one connection, none of them sent again; replies as RESP2 has them. Use it by `one_connection`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.is_clean = True  # nothing is under way on it

    async def execute_command(self, *command: bytes | str | int) -> Any:
        """Raises redis-py's errors; behind one of the connection nothing may be asked any more."""
        assert self.is_clean, "the connection was lost, or an answer is outstanding"
        self.is_clean = False
        await self._connection.send_command(*command)
        try:
            reply = await self._connection.read_response()
        except ResponseError:
            self.is_clean = True
            raise
        self.is_clean = True
        return reply


@asynccontextmanager
async def one_connection(redis: Redis) -> AsyncIterator[OneConnection]:
    """A connection of the client's pool, for what must not reach a server that came back with less than was read before."""
    pool: Any = redis.connection_pool
    connection: Any = await uncancelled(pool.get_connection())
    one = OneConnection(connection)
    try:
        yield one
    finally:
        if not one.is_clean:
            await connection.disconnect(nowait=True)
        await pool.release(connection)


@contextmanager
def speaking_of(url: str) -> Iterator[None]:
    """The adapter's edge: what redis-py raises leaves the store as a ServerError."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise server_error(error, url) from error
