"""Logs are events with fields, and no token gets into them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from processor.observe.logs import configure, redact, redact_access_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Logging is global to the process: put it back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_an_event_and_its_fields_are_one_json_line() -> None:
    """Away from a terminal `auto` means JSON, UTC times."""
    out = io.StringIO()
    configure("auto", stream=out)
    structlog.get_logger("tailrace.gateway").warning("lease_lost", lease="x", token_number=5)
    (line,) = lines(out)
    assert (line["event"], line["lease"], line["level"], line["logger"]) == (
        "lease_lost",
        "x",
        "warning",
        "tailrace.gateway",
    )
    assert str(line["timestamp"]).endswith("Z")


def test_console_lines_are_for_people() -> None:
    """No JSON, the event's name in front."""
    out = io.StringIO()
    configure("console", stream=out)
    structlog.get_logger().info("started", port=8600)
    assert "started" in out.getvalue()
    assert "port=8600" in out.getvalue()
    assert "{" not in out.getvalue()


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("value", "coloured"), [("", True), ("1", False)])
def test_no_color(monkeypatch: pytest.MonkeyPatch, value: str, coloured: bool) -> None:
    """At a terminal lines have colours, unless NO_COLOR says otherwise."""
    monkeypatch.setenv("NO_COLOR", value)
    out = _Screen()
    configure("auto", stream=out)
    structlog.get_logger().info("started")
    assert ("\x1b[" in out.getvalue()) is coloured


def test_a_terminal_is_shown_controls_instead_of_obeying_them() -> None:
    """A header may hold C1 controls; ESC comes where a server lets it through."""
    stream = io.StringIO()
    configure("console", stream=stream)
    structlog.get_logger("tailrace.gateway").warning("cors_refused", origin="\x9b31mred\x1b]0;title\x07")
    assert "origin=\\x9b31mred\\x1b]0;title\\x07" in stream.getvalue()
    assert not set(stream.getvalue()) & {"\x9b", "\x1b", "\x07"}


def test_uvicorns_access_line_becomes_fields_without_the_token() -> None:
    """The address of a link is a secret until it expires."""
    out = io.StringIO()
    configure("json", stream=out)
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "127.0.0.1:5", "GET", "/runs/r1/events?token=abc.def.ghi&after=0", "1.1", 200
    )
    (line,) = lines(out)
    assert line["event"] == "request"
    assert (line["method"], line["path"], line["status"]) == ("GET", "/runs/r1/events?token=***&after=0", 200)
    assert "abc.def" not in out.getvalue()


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ('%s - "%s %s HTTP/%s" %d', ("127.0.0.1:5", "GET", "/runs/r1?token=abc.def&after=0", "1.1", 200)),
        ("GET /runs/r1?token=abc.def&after=0", ()),
        ("GET %(path)s", ({"path": "/runs/r1?token=abc.def&after=0"},)),
    ],
)
def test_the_hosts_access_log_gets_no_token_either(message: str, args: tuple[object, ...]) -> None:
    """A mounted gateway leaves its host's logs alone but for that."""
    redact_access_logs()
    redact_access_logs()
    logger = logging.getLogger("uvicorn.access")
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    before = (logger.handlers, logger.level)
    logger.handlers = [handler]
    logger.setLevel("INFO")
    try:
        logger.info(message, *args)
    finally:
        logger.handlers, logger.level = before
    assert "/runs/r1?token=***&after=0" in out.getvalue()
    assert "abc" not in out.getvalue()


def test_exceptions_are_told_without_tokens_too() -> None:
    """A traceback may quote an address."""
    out = io.StringIO()
    configure("json", stream=out)
    try:
        raise ValueError("GET /?token=abc.def.ghi failed")
    except ValueError:
        structlog.get_logger().exception("request_failed")
    (line,) = lines(out)
    assert "ValueError" in str(line["exception"])
    assert "abc.def" not in out.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/r?token=abc", "/r?token=***"),
        ("/r?a=1&token=abc&b=2", "/r?a=1&token=***&b=2"),
        ("token=abc", "token=***"),
        ("authorization: Bearer abc.d-e_f", "authorization: Bearer ***"),
        ("/r?mytoken=abc", "/r?mytoken=abc"),
        ("GET /r?token=abc HTTP/1.1", "GET /r?token=*** HTTP/1.1"),
        ("nothing", "nothing"),
    ],
)
def test_redact(text: str, expected: str) -> None:
    """Link tokens and bearer tokens, wherever they stand in the text."""
    assert redact(text) == expected
