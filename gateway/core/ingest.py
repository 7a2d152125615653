"""Bodies of requests that produce: which events they hold, judged by the body alone.

`data` goes on as the bytes that came. The one change: each raw CR or LF, which in valid JSON is white space, becomes
one space, so that an event is one line everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from email.message import Message
from enum import Enum

from gateway.core.members import (
    Member,
    check_depth,
    decode,
    scan_array_item,
    scan_end,
    scan_object,
    scan_start,
    scan_value,
)
from gateway.core.problems import Problem, from_error
from processor.core.errors import BadEvent, BadName
from processor.core.events import Draft, draft
from processor.core.names import check_labels, check_name, check_type, is_text
from processor.core.start import start_hash

__all__ = [
    "MAX_BODY",
    "MAX_EVENTS",
    "Media",
    "bad_event",
    "check_body_size",
    "check_encodings",
    "check_event_size",
    "check_media",
    "check_traceparent",
    "content_type",
    "event_draft",
    "items_of",
    "media_of",
    "no_event",
    "one_line",
    "read_events",
    "read_members",
    "too_large",
]

MAX_EVENTS = 256
MAX_BODY = 1024 * 1024  # bytes; a body is one call of one script
_MEMBERS = ("type", "data", "labels", "traceparent")
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?", re.ASCII)
_USUAL = re.compile(
    r'\{ ?"type": ?"([A-Za-z0-9_.-]{1,128})", ?"data":( ?)'
)  # what encoders write, with or without spaces
_LINE_ENDS = {10: 32, 13: 32}


class Media(Enum):
    """How the events of a body are written."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"


_MEDIA = {"application/json": Media.JSON, "application/x-ndjson": Media.NDJSON, "application/ndjson": Media.NDJSON}


def media_of(content_types: Sequence[str], encodings: Sequence[str]) -> Media:
    """The headers Content-Type and Content-Encoding, each as often as it came. Raises Problem media-type."""
    return _MEDIA[check_media(content_types, encodings, _MEDIA)]


def check_media(content_types: Sequence[str], encodings: Sequence[str], allowed: Container[str]) -> str:
    """The media type in lower case, which is an allowed one, in UTF-8 and not compressed. Raises Problem media-type."""
    given = ", ".join(content_types)
    media, charset = content_type(given) if len(content_types) == 1 else ("", "utf-8")
    if media not in allowed:
        raise _media_type(
            "Content-Type", given or None, f"Content-Type is {given!r}." if given else "Content-Type is missing."
        )
    if charset not in ("utf-8", "utf8"):
        raise _media_type("Content-Type", given, f"The charset is {charset!r}.")
    check_encodings(encodings)
    return media


def check_encodings(encodings: Sequence[str]) -> None:
    """Raises Problem media-type for what is compressed."""
    for encoding in encodings:
        if encoding.strip().lower() not in ("identity", ""):
            raise _media_type(
                "Content-Encoding", encoding, f"Content-Encoding is {encoding!r}; nothing is decompressed here."
            )


def content_type(text: str) -> tuple[str, str]:
    """Media type and charset in lower case."""
    message = Message()
    message["content-type"] = text
    if not text.partition(";")[0].strip():
        return "", ""
    return message.get_content_type(), str(message.get_param("charset") or "utf-8").lower()


def _media_type(field: str, value: str | None, detail: str) -> Problem:
    return Problem(
        "media-type",
        detail,
        field=field,
        value=value,
        remedy="Send application/json, application/x-ndjson or CloudEvents as JSON, in UTF-8 and not compressed.",
    )


def check_body_size(size: int) -> None:
    """Raises Problem body-too-large."""
    if size > MAX_BODY:
        raise Problem(
            "body-too-large",
            f"The body has {size} bytes or more; at most {MAX_BODY} are taken.",
            value=str(size),
            remedy="Send several smaller bodies, each with its own numbers.",
        )


def one_line(text: str) -> bytes:
    """A value's text as it is stored."""
    if "\n" in text or "\r" in text:
        text = text.translate(_LINE_ENDS)
    return text.encode()


def read_events(body: bytes, media: Media, *, max_event: int) -> list[Draft]:
    """All events of a body, in order. max_event: bytes of one event in the body.

    One bad event refuses the whole body. Raises Problem: bad-json, bad-event, bad-name, event-too-large,
    too-many-events; its field begins with `events[<index>]`, and NDJSON's have the member `line`, from 1.
    """
    check_body_size(len(body))
    drafts = list((_json_events if media is Media.JSON else _ndjson_events)(body, max_event))
    if not drafts:
        raise no_event('{"type": "order.paid", "data": {"cents": 500}}')
    return drafts


def no_event(example: str) -> Problem:
    """A body is an array without items, or has no line."""
    return Problem("bad-event", "The body holds no event.", remedy=f"Send at least one, such as {example}.")


def _json_events(body: bytes, max_event: int) -> Iterator[Draft]:
    text = decode(body)
    check_depth(text)
    at = scan_start(text)
    if text[at : at + 1] != "[":
        event, at = _read_event(text, at, 0, max_event)
        scan_end(text, at)
        yield event
        return
    yield from items_of(text, at, lambda begin, index: _read_event(text, begin, index, max_event))


def items_of(text: str, at: int, read: Callable[[int, int], tuple[Draft, int]]) -> Iterator[Draft]:
    """The events of the array whose bracket stands at `at`, each as read(where it begins, its index) gives it with its end."""
    index = 0
    begin = scan_array_item(text, at + 1, first=True)
    while begin is not None:
        _check_count(index)
        event, at = read(begin, index)
        yield event
        index += 1
        begin = scan_array_item(text, at, first=False)


def _ndjson_events(body: bytes, max_event: int) -> Iterator[Draft]:
    index = 0
    for number, line in enumerate(body.split(b"\n"), 1):
        if not line.strip(b" \t\r"):
            continue
        try:
            _check_count(index)
            text = decode(line)
            check_depth(text)
            event, at = _read_event(text, scan_start(text), index, max_event)
            scan_end(text, at)
        except Problem as problem:
            problem.extra["line"] = number
            raise
        yield event
        index += 1


def _check_count(index: int) -> None:
    if index >= MAX_EVENTS:
        raise Problem(
            "too-many-events",
            f"The body has more than {MAX_EVENTS} events.",
            field=f"events[{index}]",
            remedy=f"Send at most {MAX_EVENTS} in one body.",
        )


def _read_event(text: str, at: int, index: int, max_event: int) -> tuple[Draft, int]:
    """The event that begins at `at`, and where it ends."""
    usual = _USUAL.match(text, at)
    if usual is not None:
        try:
            data, end = scan_value(text, usual.end())
        except Problem:
            end = len(text)  # read with care below, which tells what is wrong, or that it was white space
        if text[end : end + 1] == "}":
            check_event_size(text, at, end + 1, index, max_event)
            member = Member(data, text[usual.start(2) : end])
            return _draft(usual[1], member, None, None, f"events[{index}]"), end + 1
    if text[at : at + 1] != "{":
        _, end = scan_value(text, at)
        raise bad_event(f"events[{index}]", text[at:end], "is no object", "Send an object with type and data.")
    members, end = scan_object(text, at)
    check_event_size(text, at, end, index, max_event)
    return _checked(members, f"events[{index}]"), end


def check_event_size(text: str, begin: int, end: int, index: int, max_event: int) -> None:
    """Of the event that stands there. Raises Problem event-too-large."""
    if end - begin > max_event // 4:  # characters; below that it cannot be too large
        size = len(text[begin:end].encode())
        if size > max_event:
            raise too_large(f"events[{index}]", size, max_event)


def too_large(field: str, size: int, most: int) -> Problem:
    """What is over the limit of one event."""
    return Problem(
        "event-too-large",
        f"{field} has {size} bytes; at most {most} are taken.",
        field=field,
        value=str(size),
        remedy="Cut it into several events, or keep large things in storage of their own and send the address.",
    )


def _checked(members: Mapping[str, Member], field: str) -> Draft:
    for name in members:
        if name not in _MEMBERS:
            raise bad_event(
                f"{field}.{name}",
                members[name].text.strip(),
                "is no member of an event",
                "Only type, data, labels and traceparent are; anything else belongs into data.",
            )
    if "type" not in members:
        raise bad_event(f"{field}.type", None, "is missing", "Give dotted words, such as order.paid.")
    type = members["type"].value
    if not isinstance(type, str):
        raise bad_event(f"{field}.type", members["type"].text.strip(), "is no string", "Give dotted words.")
    return _draft(
        type,
        members.get("data", Member(None, "null")),
        members.get("labels"),
        members.get("traceparent"),
        field,
    )


def _draft(type: str, data: Member, labels: Member | None, traceparent: Member | None, field: str) -> Draft:
    try:
        return _judged(type, data, labels, traceparent, field)
    except BadEvent as error:
        raise from_error(error) from error


def _judged(type: str, data: Member, labels: Member | None, traceparent: Member | None, field: str) -> Draft:
    """Raises BadEvent or Problem."""
    check_type(type, field=f"{field}.type")
    checked = None if labels is None else read_labels(labels, f"{field}.labels")
    trace = None
    if traceparent is not None:
        trace = check_traceparent(traceparent.value, traceparent.text.strip(), f"{field}.traceparent")
    return event_draft(type, data, checked, trace, data_field=f"{field}.data")


def event_draft(
    type: str, data: Member, checked: Mapping[str, str] | None, trace: str | None, *, data_field: str
) -> Draft:
    """With what its type brings beside the payload; type, labels and traceparent are checked. Raises BadEvent or Problem."""
    line = one_line(data.text)
    if type == "run.queued":
        task, start = _read_start(data.value, data_field)
        return draft(type, line, labels=checked, traceparent=trace, task=task, start=start)
    if type == "run.started":
        task, start = _seen_start(data.value)
        return draft(type, line, labels=checked, traceparent=trace, task=task, start=start)
    if type == "run.waiting":
        return draft(type, line, labels=checked, traceparent=trace, ask=_seen_text(data.value, "ask"))
    if type == "run.resumed":
        value = _member_line(data, "value", "null")
        return draft(type, line, labels=checked, traceparent=trace, ask=_seen_text(data.value, "ask"), value=value)
    if type == "run.failed":
        given = isinstance(data.value, dict) and isinstance(data.value.get("error"), str)
        error = _member_line(data, "error", '""') if given else b'""'
        return draft(type, line, labels=checked, traceparent=trace, error=error)
    return draft(type, line, labels=checked, traceparent=trace)


def read_labels(member: Member, field: str) -> Mapping[str, str]:
    """Labels as an event has them. Raises BadEvent or Problem bad-event."""
    if not isinstance(member.value, dict):
        raise bad_event(field, member.text.strip(), "is no object", "Give an object of strings.")
    labels: dict[str, str] = member.value
    check_labels(labels, field=field)
    return labels


def check_traceparent(value: object, text: str, field: str) -> str:
    """text: as it came. Raises Problem bad-event."""
    if not isinstance(value, str) or not _TRACEPARENT.fullmatch(value) or (value.startswith("00") and len(value) != 55):
        raise bad_event(
            field,
            text,
            "is no W3C traceparent",
            "Send it as your tracing library writes it: 00-<32 hex digits>-<16 hex digits>-<2 hex digits>.",
        )
    return value


def _read_start(data: object, field: str) -> tuple[str, str]:
    """Task and start hash of a run.queued. Raises BadEvent."""
    if not isinstance(data, dict):
        raise bad_event(field, None, "is no object", 'Give {"task": …, "input": {…}}.')
    task = data.get("task")
    if not isinstance(task, str):
        raise bad_event(f"{field}.task", None if task is None else repr(task), "is no task", "Give the task's name.")
    try:
        check_name(task, "task", field=f"{field}.task")
    except BadName as error:
        raise BadEvent(error.message, remedy=error.remedy, field=error.field, value=error.value) from error
    input = data.get("input", {})
    if not isinstance(input, dict):
        raise bad_event(f"{field}.input", repr(input), "is no object", "Give the parameters by name.")
    return task, start_hash(task, input)


def _seen_start(data: object) -> tuple[str, str]:
    """Task and start hash of a run.started; empty where it names none that could be one."""
    try:
        return _read_start(data, "data")
    except (BadEvent, Problem):
        return "", ""


def _seen_text(data: object, name: str) -> str:
    """A member of data that is a string; empty if it is absent or anything else."""
    value = data.get(name) if isinstance(data, dict) else None
    return value if isinstance(value, str) and is_text(value) else ""


def _member_line(data: Member, name: str, default: str) -> bytes:
    """The text of a member of data."""
    if not isinstance(data.value, dict):
        return default.encode()
    members, _ = scan_object(data.text, scan_start(data.text))
    return one_line(members[name].text.strip() if name in members else default)


def read_members(body: bytes, allowed: Sequence[str], *, max_event: int) -> Mapping[str, Member]:
    """The members of a body that is one JSON object, and becomes one event.

    max_event: bytes of the body. Raises Problem: event-too-large, bad-json, bad-event.
    """
    if len(body) > max_event:
        raise too_large("body", len(body), max_event)
    text = decode(body)
    check_depth(text)
    at = scan_start(text)
    if text[at : at + 1] != "{":
        _, end = scan_value(text, at)
        raise bad_event("body", text[at:end], "is no object", f"Send an object of {', '.join(allowed)}.")
    members, at = scan_object(text, at)
    scan_end(text, at)
    for name in members:
        if name not in allowed:
            raise bad_event(name, members[name].text.strip(), "is not known here", f"Give {', '.join(allowed)}.")
    return members


def bad_event(field: str, value: str | None, what: str, remedy: str) -> Problem:
    """what: said of the field, as `is no object`."""
    return Problem("bad-event", f"{field[:200]} {what}.", field=field, value=value, remedy=remedy)
