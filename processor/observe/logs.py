"""Logs: structlog events with fields, at a terminal for people, elsewhere as JSON lines; other loggers pass through it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

__all__ = ["configure", "redact", "redact_access_logs"]

# In addresses, in headers as they are logged, and in what uvicorn's access log makes of both.
_TOKEN = re.compile(r"""((?:^|[?&;\s"'])token=)[^&;\s"'#]+""", re.IGNORECASE)
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all controls but tab and LF
_BEARER = re.compile(r"(bearer\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without the tokens of links and headers."""
    return _BEARER.sub(r"\1***", _TOKEN.sub(r"\1***", text))


class _Redacting(logging.Filter):
    """Takes tokens out of records, whatever handlers their logger has."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if redact(said) != said:
            if isinstance(record.args, tuple):
                record.args = tuple(redact(arg) if isinstance(arg, str) else arg for arg in record.args)
            if redact(said := record.getMessage()) != said:  # the token stood in the message, or in arguments of a kind
                record.msg, record.args = redact(said), ()
        return True


_redacting = _Redacting()


def redact_access_logs() -> None:
    """Keep tokens of links out of the access log of the server that runs us, which is our host's otherwise."""
    for server in ("uvicorn", "hypercorn", "granian", "gunicorn"):
        for name in (f"{server}.access", f"_{server}.access"):
            logging.getLogger(name).addFilter(_redacting)  # the same one again is no second one


def _redact_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = redact(value)
    return event


def _show_controls(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What a terminal would obey becomes visible: fields hold what clients sent, as the header Origin. JSON escapes it."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _OBEYED.sub(lambda found: f"\\x{ord(found[0]):02x}", value)
    return event


def _access_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """uvicorn's access line as an event with fields."""
    args = event.pop("positional_args", None)
    record = event.get("_record")
    if record is None or record.name != "uvicorn.access" or not isinstance(args, tuple) or len(args) != 5:
        return event
    client, verb, path, version, status = args
    event.update(event="request", client=client, method=verb, path=path, http=version, status=status)
    return event


_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(
    log: str, *, level: str = "INFO", stream: TextIO | None = None, levels: Mapping[str, str] | None = None
) -> None:
    """Set up the logs of a process that is ours; a library leaves its host's logs alone. What sends records to runs
    (processor.logs) stays, since modules that were loaded before may have put it there.

    log: `auto` (console at a terminal, else json), `console` or `json`. stream: stderr by default. levels: of single
    loggers, as {"uvicorn.access": "WARNING"}.
    """
    out = stream or sys.stderr
    people = log == "console" or (log == "auto" and out.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty() and not os.environ.get("NO_COLOR"))
        if people
        else structlog.processors.JSONRenderer()
    )
    tail: list[structlog.typing.Processor] = [
        _access_fields,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        *([_show_controls] if people else [structlog.processors.format_exc_info]),
        _redact_fields,
        renderer,
    ]
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=tail, pass_foreign_args=True)
    )
    root = logging.getLogger()
    root.handlers = [handler, *filter(_sends_to_runs, root.handlers)]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "sse_starlette"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    for name, wanted in (levels or {}).items():
        logging.getLogger(name).setLevel(wanted)
    sending = list(filter(_sends_to_runs, structlog.get_config()["processors"]))
    wrap = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, *sending, wrap],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _sends_to_runs(one: object) -> bool:
    return type(one).__module__.startswith("processor.logs.")
