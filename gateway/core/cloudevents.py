"""CloudEvents 1.0 over HTTP: their attributes become labels, `type` and `data` are the event's own.

Three modes: one event as JSON (structured), an array of them (batch), and binary, where attributes are `ce-` headers and
the body is the data. After the specifications' version 1.0.2: the HTTP protocol binding and the JSON event format.

`data` is kept as it came. Data that is no JSON is kept too: text as a JSON string, bytes as `{"data_base64": "…"}`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.core.ingest import (
    bad_event,
    check_body_size,
    check_encodings,
    check_event_size,
    check_media,
    check_traceparent,
    content_type,
    event_draft,
    items_of,
    no_event,
    too_large,
)
from gateway.core.members import Member, check_depth, decode, scan_end, scan_object, scan_start, scan_value
from gateway.core.problems import from_error
from processor.core.errors import BadEvent
from processor.core.events import Draft
from processor.core.json import dumps
from processor.core.names import MAX_LABEL_BYTES, MAX_LABELS, check_type, is_text

__all__ = ["Mode", "mode_of", "read_binary", "read_structured"]

PREFIX: Final = "ce-"  # of headers, and of labels
DATA_BASE64: Final = "data_base64"  # the member of data that holds bytes
MAX_NAME: Final = 62 - len(PREFIX)  # what a label's name leaves
_MEDIA: Final = "application/cloudevents"
_REQUIRED: Final = ("specversion", "id", "source", "type")
_CORE: Final = (*_REQUIRED, "datacontenttype", "dataschema", "subject", "time")  # strings, and not empty
_NAME: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE: Final = re.compile(rf"{_TOKEN}/{_TOKEN}\s*(;.*)?")
_PLAIN_JSON: Final = re.compile(r'application/json\s*(;\s*charset="?utf-?8"?\s*)?', re.IGNORECASE)
_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
)
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_HALF_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NO_DATA: Final = Member(None, "null")
_EXAMPLE: Final = '{"specversion": "1.0", "id": "1", "source": "/shop", "type": "order.paid"}'


class Mode(Enum):
    """How CloudEvents stand in a request."""

    STRUCTURED = "application/cloudevents+json"
    BATCH = "application/cloudevents-batch+json"
    BINARY = ""


_MODES: Final = {mode.value: mode for mode in (Mode.STRUCTURED, Mode.BATCH)}


def mode_of(content_types: Sequence[str], encodings: Sequence[str], *, has_specversion: bool) -> Mode | None:
    """None if the request is no CloudEvent. The headers Content-Type and Content-Encoding, each as often as it came.

    A content type of CloudEvents goes before `ce-specversion`: a sender of structured events may repeat the attributes as
    headers. Raises Problem media-type.
    """
    if len(content_types) == 1 and content_type(content_types[0])[0].startswith(_MEDIA):
        return _MODES[check_media(content_types, encodings, _MODES)]
    return Mode.BINARY if has_specversion else None


def read_structured(body: bytes, mode: Mode, *, max_event: int) -> list[Draft]:
    """One event or an array of 1 to 256. max_event: bytes of one in the body.

    One bad event refuses the whole body. Raises Problem: bad-json, bad-event, event-too-large, too-many-events; its field
    begins with `events[<index>]`.
    """
    check_body_size(len(body))
    text = decode(body)
    check_depth(text)
    at = scan_start(text)
    if mode is Mode.STRUCTURED:
        event, at = _read_event(text, at, 0, max_event)
        scan_end(text, at)
        return [event]
    if text[at : at + 1] != "[":
        _, end = scan_value(text, at)
        raise bad_event("body", text[at:end], "is no array", f"Send a single event as {Mode.STRUCTURED.value}.")
    events = list(items_of(text, at, lambda begin, index: _read_event(text, begin, index, max_event)))
    if not events:
        raise no_event(f"[{_EXAMPLE}]")
    return events


def _read_event(text: str, at: int, index: int, max_event: int) -> tuple[Draft, int]:
    """The event that begins at `at`, and where it ends."""
    field = f"events[{index}]"
    if text[at : at + 1] != "{":
        _, end = scan_value(text, at)
        raise bad_event(field, text[at:end], "is no object", f"Send an object such as {_EXAMPLE}.")
    members, end = scan_object(text, at)
    check_event_size(text, at, end, index, max_event)
    given = {name: member for name, member in members.items() if name not in ("data", DATA_BASE64)}
    context = _context({name: member.value for name, member in given.items()}, lambda name: f"{field}.{name}")
    return _draft(context, _json_data(members, context, field), f"{field}.type", f"{field}.data"), end


def _json_data(members: Mapping[str, Member], context: _Context, field: str) -> Member:
    """Raises Problem bad-event."""
    encoded = members.get(DATA_BASE64)
    if encoded is not None and encoded.value is not None:
        if "data" in members:
            raise bad_event(f"{field}.{DATA_BASE64}", None, "came beside data", "Send one of the two.")
        _check_base64(encoded, f"{field}.{DATA_BASE64}")
        return Member({DATA_BASE64: encoded.value}, f'{{"{DATA_BASE64}":{encoded.text}}}')
    data = members.get("data", _NO_DATA)
    if context.media is not None and not _is_json(context.media) and not isinstance(data.value, str | None):
        raise bad_event(
            f"{field}.data",
            data.text.strip(),
            f"is no string, and {context.media} is no JSON",
            "Send text as a string, bytes as data_base64, or JSON with a datacontenttype of JSON.",
        )
    return data


def _check_base64(member: Member, field: str) -> None:
    try:
        if not isinstance(member.value, str):
            raise ValueError("no string")
        binascii.a2b_base64(member.value, strict_mode=True)
    except ValueError as error:  # not ASCII, or not base64
        raise bad_event(field, member.text.strip(), "is no base64", "Send base64 with padding, as RFC 4648.") from error


def read_binary(
    headers: Sequence[tuple[str, str]],
    content_types: Sequence[str],
    encodings: Sequence[str],
    body: bytes,
    *,
    max_event: int,
) -> list[Draft]:
    """One event. headers: names in lower case, values as they came. max_event: bytes of the body, and of what becomes of it.

    Raises Problem: media-type, bad-json, bad-event (its field is the header), event-too-large.
    """
    check_encodings(encodings)
    given: dict[str, object] = {}
    for header, value in headers:
        if header.startswith(PREFIX):
            name = header.removeprefix(PREFIX)
            if name in given:
                raise bad_event(header, value, "came more than once", "Send it once.")
            if name in ("datacontenttype", "data", DATA_BASE64):
                what = "Content-Type" if name == "datacontenttype" else "the body"
                raise bad_event(header, value, "is no header of a CloudEvent", f"Send it as {what}.")
            given[name] = _header_text(header, value)
    if len(content_types) == 1:
        given["datacontenttype"] = content_types[0].strip()
    elif content_types:
        check_media(content_types, encodings, ())  # it came more than once
    context = _context(given, lambda name: "Content-Type" if name == "datacontenttype" else PREFIX + name)
    return [_draft(context, _body_data(body, context.media, max_event), "ce-type", "data")]


def _header_text(header: str, value: str) -> str:
    """An attribute as the header has it: quotes taken off, then percent-decoded once. Raises Problem bad-event."""
    raw = value.encode("latin-1")
    if raw.startswith(b'"'):
        quoted = _QUOTED.fullmatch(raw)
        if quoted is None:
            raise bad_event(header, value, "begins with a quote that is not closed", 'Write " as %22.')
        raw = _ESCAPED.sub(rb"\1", quoted[1])
    if _HALF_ESCAPE.search(raw):
        raise bad_event(header, value, "has a % without two hexadecimal digits behind it", "Write % as %25.")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise bad_event(
            header, value, "is not UTF-8", "Percent-encode the bytes of UTF-8: €uro is %E2%82%ACuro."
        ) from error


def _body_data(body: bytes, media: str | None, max_event: int) -> Member:
    """The body of an event in binary mode as its data. Raises Problem."""
    if not body:
        return _NO_DATA
    if len(body) > max_event:
        raise too_large("data", len(body), max_event)
    if media is None:  # CloudEvents' own SDK for Python sends none with JSON
        media = "application/json"
    essence, charset = content_type(media)
    if _is_json(media):
        check_media([media], (), (essence,))  # its charset
        text = decode(body)
        check_depth(text)
        value, end = scan_value(text, scan_start(text))
        scan_end(text, end)
        return Member(value, text)
    if essence.startswith("text/"):
        if charset != "us-ascii":
            check_media([media], (), (essence,))
        try:
            string = body.decode()
        except UnicodeDecodeError as error:
            raise bad_event("data", None, f"is no UTF-8 at offset {error.start}", "Send UTF-8.") from error
        return _grown(Member(string, dumps(string).decode()), "a JSON string", len(body), max_event)
    encoded = base64.b64encode(body).decode()
    return _grown(Member({DATA_BASE64: encoded}, f'{{"{DATA_BASE64}":"{encoded}"}}'), "base64", len(body), max_event)


def _grown(data: Member, form: str, size: int, max_event: int) -> Member:
    """What has become longer. Raises Problem event-too-large."""
    grown = len(data.text.encode())
    if grown > max_event:
        problem = too_large("data", grown, max_event)
        problem.detail = f"data has {size} bytes, as {form} {grown}; at most {max_event} are taken."
        raise problem
    return data


# Context attributes.


class _Context(NamedTuple):
    """What the attributes of an event say."""

    type: str
    media: str | None  # datacontenttype; None: JSON
    labels: Mapping[str, str]
    traceparent: str | None


def _context(given: Mapping[str, object], field: Callable[[str], str]) -> _Context:
    """given: by name, None for one that is not set. field: where one of them stands. Raises Problem bad-event."""
    attributes = {name: _text(name, value, field(name)) for name, value in given.items() if value is not None}
    for name in _REQUIRED:
        if name not in attributes:
            raise bad_event(field(name), None, "is missing", f"An event has {', '.join(_REQUIRED)}.")
    version, type = attributes.pop("specversion"), attributes.pop("type")
    if version != "1.0":
        raise bad_event(field("specversion"), version, f"is {version[:20]!r}", "Send CloudEvents 1.0.")
    media = attributes.get("datacontenttype")
    if media is not None and _PLAIN_JSON.fullmatch(media):
        del attributes["datacontenttype"]  # absent means the same
    trace = attributes.pop("traceparent", None)
    if trace is not None:
        trace = check_traceparent(trace, trace, field("traceparent"))
    labels = {PREFIX + name: _label(name, text, field(name)) for name, text in attributes.items()}
    if len(labels) > MAX_LABELS:
        remedy = "Put the rest into data."
        raise bad_event(
            field(list(attributes)[MAX_LABELS]),
            None,
            f"is one of {len(labels)} labels; at most {MAX_LABELS} are kept",
            remedy,
        )
    return _Context(type, media, labels, trace)


def _text(name: str, value: object, field: str) -> str:
    """An attribute in its canonical form. Raises Problem bad-event."""
    if not _NAME.fullmatch(name):
        raise bad_event(
            field, None, "is no name of an attribute", "Names have letters a to z in lower case, and digits."
        )
    if isinstance(value, bool):
        text: object = "true" if value else "false"
    elif isinstance(value, int) and -(2**31) <= value < 2**31:
        text = str(value)
    else:
        text = value
    if not isinstance(text, str) or (name in _CORE and text is not value):
        allowed = "a string" if name in _CORE else "a string, a boolean or an integer of 32 bits"
        raise bad_event(field, dumps(value).decode(), f"is not {allowed}", "Put structured values into data.")
    if not text and name in _CORE:
        raise bad_event(field, text, "is empty", "Give it a value, or leave it out where it is optional.")
    if _CONTROL.search(text) or not is_text(text):
        raise bad_event(
            field, text, "has a control character or half a surrogate pair", "Send whole, printable characters."
        )
    if name == "time" and not _is_time(text):
        raise bad_event(field, text, "is no time of RFC 3339", "Send it as 2026-11-24T17:31:00Z.")
    if name == "datacontenttype" and not _MEDIA_TYPE.fullmatch(text):
        raise bad_event(field, text, "is no media type", "Send it as application/json.")
    return text


def _label(name: str, text: str, field: str) -> str:
    """As a label is kept. Raises Problem bad-event."""
    size = len(text.encode())
    if size > MAX_LABEL_BYTES:
        raise bad_event(
            field, text, f"has {size} bytes; a label has at most {MAX_LABEL_BYTES}", "Shorten it, or put it into data."
        )
    if len(name) > MAX_NAME:
        raise bad_event(
            field, name, f"has a name of {len(name)} characters; at most {MAX_NAME} are kept", "Shorten it."
        )
    return text


def _is_time(text: str) -> bool:
    match = _TIME.fullmatch(text)
    if match is None:
        return False
    try:
        datetime.fromisoformat(match[1])
    except ValueError:  # no such day
        return False
    return True


def _is_json(media: str) -> bool:
    subtype = content_type(media)[0].partition("/")[2]
    return subtype == "json" or subtype.endswith("+json")


def _draft(context: _Context, data: Member, type_field: str, data_field: str) -> Draft:
    try:
        check_type(context.type, field=type_field)
        return event_draft(context.type, data, context.labels, context.traceparent, data_field=data_field)
    except BadEvent as error:
        raise from_error(error) from error
