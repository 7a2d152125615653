"""Fixtures for all tests: servers, a namespace of one's own, programs, and what no test may do.

server         a real Valkey, started once a session
every_server   the test runs on Valkey, on Redis 7 (where redis-server is installed) and on fakeredis
namespace      a fresh one for each test
program        starts real processes, ended at the end of the test
After each test: nothing held the loop, no key without TTL is left but those of DESIGN 2; then the server is emptied.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from tests.support.leaks import leaks
from tests.support.loop_watch import watched_loop
from tests.support.program import Program
from tests.support.servers import KINDS, Kind, TestServer, binary_of, running, running_fake

_LOOP_LIMIT = 0.5  # seconds; a blocking call of a client or a program takes longer, a big test's own work does not
_count = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; programs would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What lands must not depend on the draw of the day; everywhere else each run looks at other examples.
    hypothesis.settings.register_profile("ci", derandomize=True)
    if os.environ.get("CI"):
        hypothesis.settings.load_profile("ci")
    config.addinivalue_line("markers", "holds_loop: this test holds the event loop by intention")


@pytest.fixture(autouse=True)
def _loop_is_free(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that blocks the loop fails."""
    if request.node.get_closest_marker("holds_loop"):
        yield
        return
    with watched_loop(_LOOP_LIMIT) as found:
        yield
    if found:
        pytest.fail("\n".join(found), pytrace=False)


class _Servers:
    """Starts each kind once, when first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[Kind, TestServer] = {}

    def get(self, kind: Kind) -> TestServer:
        if kind not in self._running:
            if kind != "fake" and binary_of(kind) is None:
                pytest.skip(f"{kind}: no redis-server of version 7 or newer is installed")
            self._running[kind] = self._stack.enter_context(running_fake() if kind == "fake" else running(kind))
        return self._running[kind]


@pytest.fixture(scope="session")
def _servers() -> Iterator[_Servers]:
    with ExitStack() as stack:
        yield _Servers(stack)


def _lent(server: TestServer) -> Iterator[TestServer]:
    yield server
    client = server.client()
    try:
        left = leaks(client)
        client.flushall()
    finally:
        client.close()
    if left:
        pytest.fail("\n".join(left), pytrace=False)


@pytest.fixture
def server(_servers: _Servers) -> Iterator[TestServer]:
    """A real Valkey."""
    yield from _lent(_servers.get("valkey"))


@pytest.fixture(params=KINDS)
def every_server(request: pytest.FixtureRequest, _servers: _Servers) -> Iterator[TestServer]:
    """Valkey, Redis 7 and fakeredis, one after the other."""
    yield from _lent(_servers.get(request.param))


@pytest.fixture
def namespace() -> str:
    return f"t{next(_count)}-{secrets.token_hex(3)}"


@pytest.fixture
def program() -> Iterator[Callable[..., Program]]:
    """Starts a Program; whatever still runs at the end of the test is killed, by its PID."""
    started: list[Program] = []

    def start(*argv: str, **options: object) -> Program:
        one = Program(*argv, **options)  # type: ignore[arg-type]
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
