"""CloudEvents 1.0 over HTTP -> events: all three modes, what is kept as it came, what is refused and at which field."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.cloudevents import Mode, mode_of, read_binary, read_structured
from gateway.core.problems import Problem
from processor.core.events import Draft
from processor.core.start import start_hash

MAX_EVENT = 64 * 1024
LEAST = {"specversion": "1.0", "id": "A-1", "source": "/shop", "type": "order.paid"}
LEAST_LABELS = {"ce-id": "A-1", "ce-source": "/shop"}
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def structured(body: object, mode: Mode = Mode.STRUCTURED) -> list[Draft]:
    if not isinstance(body, str | bytes):
        body = json.dumps(body)
    return read_structured(body.encode() if isinstance(body, str) else body, mode, max_event=MAX_EVENT)


def binary(body: bytes = b"", media: str | None = None, **attributes: str) -> Draft:
    given = {**LEAST, **attributes}
    headers = [(f"ce-{name}", value) for name, value in given.items()]
    (draft,) = read_binary(headers, [] if media is None else [media], [], body, max_event=MAX_EVENT)
    return draft


def event_of(draft: Draft) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(b"{" + draft.payload)
    assert event.pop("type") == draft.type
    return event


def data_of(draft: Draft) -> bytes:
    """The bytes of data, as they stand in the payload."""
    return draft.payload.partition(b'"data":')[2][:-1]


def refused(body: object, mode: Mode = Mode.STRUCTURED) -> Problem:
    with pytest.raises(Problem) as caught:
        structured(body, mode)
    return caught.value


def refused_binary(body: bytes = b"", media: str | None = None, **attributes: str) -> Problem:
    with pytest.raises(Problem) as caught:
        binary(body, media, **attributes)
    return caught.value


# Modes.


@pytest.mark.parametrize(
    ("types", "has_specversion", "mode"),
    [
        ([STRUCTURED], False, Mode.STRUCTURED),
        (["Application/CloudEvents+JSON; charset=UTF-8"], False, Mode.STRUCTURED),
        ([BATCH], False, Mode.BATCH),
        ([STRUCTURED], True, Mode.STRUCTURED),
        ([], True, Mode.BINARY),
        (["application/json"], True, Mode.BINARY),
        (["application/xml"], True, Mode.BINARY),
        (["application/json"], False, None),
        ([], False, None),
        (["text/plain", "text/plain"], False, None),
    ],
)
def test_modes(types: list[str], has_specversion: bool, mode: Mode | None) -> None:
    """The content type of CloudEvents goes first, since its sender may repeat attributes as headers; else ce-specversion."""
    assert mode_of(types, [], has_specversion=has_specversion) is mode


@pytest.mark.parametrize(
    ("types", "encodings"),
    [
        (["application/cloudevents"], []),
        (["application/cloudevents+xml"], []),
        (["application/cloudevents+avro"], []),
        (["application/cloudevents+json; charset=latin-1"], []),
        ([STRUCTURED], ["gzip"]),
    ],
)
def test_other_formats_are_refused(types: list[str], encodings: list[str]) -> None:
    """415, whether attributes came as headers or not."""
    for has_specversion in (False, True):
        with pytest.raises(Problem) as caught:
            mode_of(types, encodings, has_specversion=has_specversion)
        assert caught.value.type == "media-type"


# Attributes.


def test_least_event() -> None:
    """The four required attributes are enough: type is the event's, id and source are labels, data is null."""
    (draft,) = structured(LEAST)
    assert draft.payload == b'"type":"order.paid","labels":{"ce-id":"A-1","ce-source":"/shop"},"data":null}'
    assert binary() == draft


def test_all_attributes_become_labels() -> None:
    """Optional ones and extensions too; booleans and integers as CloudEvents writes them."""
    more = {
        "datacontenttype": "text/plain",
        "dataschema": "https://shop.test/schema",
        "subject": "order 7",
        "time": "2026-11-24T17:31:00.123456789+01:00",
        "extint": -10,
        "extbool": True,
        "extoff": False,
        "extstring": "",
        "extbinary": "TWE=",
    }
    (draft,) = structured({**LEAST, **more})
    expected = {f"ce-{name}": value for name, value in more.items()}
    expected |= {"ce-extint": "-10", "ce-extbool": "true", "ce-extoff": "false"}
    assert event_of(draft) == {"labels": {**LEAST_LABELS, **expected}, "data": None}


def test_null_is_as_if_it_had_not_come() -> None:
    """For attributes, and for data_base64 beside data."""
    (draft,) = structured({**LEAST, "time": None, "subject": None, "ext": None, "data_base64": None, "data": 1})
    assert event_of(draft) == {"labels": LEAST_LABELS, "data": 1}
    assert refused({**LEAST, "id": None}).field == "events[0].id"


@pytest.mark.parametrize(
    "media", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON;charset=UTF-8"]
)
def test_plain_json_needs_no_label(media: str) -> None:
    """So the same event is the same in every mode."""
    (as_structured,) = structured({**LEAST, "datacontenttype": media, "data": {"cents": 500}})
    assert event_of(binary(b'{"cents": 500}', media)) == event_of(as_structured)
    assert "ce-datacontenttype" not in event_of(as_structured)["labels"]


def test_traceparent_is_the_events_own() -> None:
    """The extension for distributed tracing says what an event's traceparent says; tracestate is a label."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    (draft,) = structured({**LEAST, "traceparent": trace, "tracestate": "a=1"})
    assert event_of(draft) == {"labels": {**LEAST_LABELS, "ce-tracestate": "a=1"}, "traceparent": trace, "data": None}
    assert binary(traceparent=trace, tracestate="a=1") == draft
    problem = refused({**LEAST, "traceparent": "x"})
    assert (problem.type, problem.field) == ("bad-event", "events[0].traceparent")


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        *[(name, missing, name) for name in LEAST for missing in ("absent", None, "", 25, {"x": 1})],
        ("specversion", "0.3", "specversion"),
        ("specversion", "1.1", "specversion"),
        ("specversion", 1.0, "specversion"),
        ("type", "not a type", "type"),
        ("type", "tailrace.gap", "type"),
        ("type", "x" * 129, "type"),
        *[(name, "", name) for name in ("subject", "dataschema", "datacontenttype", "time")],
        *[
            ("time", time, "time")
            for time in (
                "lunchtime",
                "2018-04-05",
                "2018-04-05T18:31Z",
                "2018-04-05T18:31:00",
                "2018-04-05 18:31:00Z",
                "2018-04-05T18:31:00X",
                "2018-04-05T18:31:00+25:00",
                "2018-04-05T18:31:00+05",
                "2018-04-05T24:00:00Z",
                "2018-02-30T18:31:00Z",
                "0000-01-01T00:00:00Z",
                5,
                True,
            )
        ],
        ("datacontenttype", "xyz", "datacontenttype"),
        ("datacontenttype", "a/b c", "datacontenttype"),
        ("MyExtension", "bad", "MyExtension"),
        ("my.extension", "bad", "my.extension"),
        ("my-extension", "bad", "my-extension"),
        ("my_extension", "bad", "my_extension"),
        ("é", "bad", "é"),
        ("", "bad", ""),
        ("ext", 1.5, "ext"),
        ("ext", 1.0, "ext"),
        ("ext", 2**31, "ext"),
        ("ext", [], "ext"),
        ("ext", {"a": 1}, "ext"),
        ("ext", "a\nb", "ext"),
        ("ext", "\x7f", "ext"),
        ("ext", "\ud800", "ext"),
        ("ext", "x" * 65, "ext"),
        ("source", "https://" + "x" * 60, "source"),
        ("id", "é" * 33, "id"),
        ("x" * 60, "long name", "x" * 60),
    ],
)
def test_bad_attributes(name: str, value: object, field: str) -> None:
    """400 bad-event names the attribute; in a batch with its index."""
    event: dict[str, object] = {**LEAST, name: value}
    if value == "absent":
        del event[name]
    problem = refused(event)
    assert (problem.status, problem.type, problem.field) == (400, "bad-event", f"events[0].{field}")
    problem = refused([LEAST, event], Mode.BATCH)
    assert problem.field == f"events[1].{field}"
    assert problem.remedy


def test_limits_of_labels() -> None:
    """A value of 64 bytes and a name of 59 characters fit, and 32 of them."""
    (draft,) = structured({**LEAST, "source": "x" * 64, "y" * 59: "z"})
    assert event_of(draft)["labels"] == {"ce-id": "A-1", "ce-source": "x" * 64, f"ce-{'y' * 59}": "z"}
    many = {f"ext{n}": "v" for n in range(30)}
    assert len(event_of(structured({**LEAST, **many})[0])["labels"]) == 32
    problem = refused({**LEAST, **many, "last": "v"})
    assert (problem.type, problem.field) == ("bad-event", "events[0].last")


# Data.


@pytest.mark.parametrize(
    "text",
    ["1e400", "-0.0", "1.50", '"\\ud800"', '"\\u0000\\/"', '{"b":1,"a":2,"b":3}', '{ "a" : [ ] }', "[1,\n\t2]", "null"],
)
def test_json_is_kept_as_it_came(text: str) -> None:
    """Number text, escapes, order, repeated members; line ends become spaces."""
    line = text.replace("\n", " ").encode()
    body = json.dumps(LEAST)[:-1] + ', "data":' + text + "}"
    assert data_of(structured(body)[0]) == line
    assert data_of(structured(f"[{body}]", Mode.BATCH)[0]) == line
    assert data_of(binary(text.encode(), "application/json")) == line
    assert data_of(binary(text.encode(), "application/vnd.shop+json")) == line


def test_text_is_a_string() -> None:
    """In binary mode the body of text/*, whatever it looks like."""
    (as_structured,) = structured({**LEAST, "datacontenttype": "text/plain", "data": '{"ü"}\r\n'})
    assert event_of(as_structured)["data"] == '{"ü"}\r\n'
    in_binary = binary('{"ü"}\r\n'.encode(), "text/plain")
    assert event_of(in_binary) == event_of(as_structured)
    assert event_of(binary(b"a", "text/plain; charset=us-ascii"))["data"] == "a"
    assert event_of(binary(b"[1]", "text/json"))["data"] == [1]


def test_bytes_stay_base64() -> None:
    """data_base64 is kept as it was written, as the only member of data; binary mode makes the same of any other body."""
    bytes_ = bytes(range(256))
    encoded = base64.b64encode(bytes_).decode()
    (as_structured,) = structured({**LEAST, "datacontenttype": "image/png", "data_base64": encoded})
    assert data_of(as_structured) == b'{"data_base64": "%b"}' % encoded.encode()
    assert event_of(binary(bytes_, "image/png")) == event_of(as_structured)
    escaped = json.dumps(LEAST)[:-1] + ',"data_base64":"TW\\u0045="}'
    assert data_of(structured(escaped)[0]) == b'{"data_base64":"TW\\u0045="}'


@pytest.mark.parametrize("value", ["TW", "TW=", "T W=", "TWE=TWE=", "é", "-_==", 5, [], {}])
def test_bad_base64(value: object) -> None:
    """400 bad-event."""
    problem = refused({**LEAST, "data_base64": value})
    assert (problem.type, problem.field) == ("bad-event", "events[0].data_base64")


def test_data_comes_one_way() -> None:
    """data and data_base64 exclude each other, and what is no JSON is a string."""
    assert refused({**LEAST, "data": None, "data_base64": "TWE="}).field == "events[0].data_base64"
    assert refused({**LEAST, "datacontenttype": "text/xml", "data": {"a": 1}}).field == "events[0].data"
    assert event_of(structured({**LEAST, "datacontenttype": "text/xml", "data": None})[0])["data"] is None


def test_no_body_is_no_data() -> None:
    """Whatever its content type says."""
    assert event_of(binary(b"", "application/json"))["data"] is None
    assert event_of(binary(b"", "text/plain"))["data"] is None


# Lifecycle.


def test_lifecycle_events_bring_what_they_bring() -> None:
    """A CloudEvent of type run.queued queues a run."""
    data = {"task": "pay", "input": {"cents": 500}}
    event = {**LEAST, "type": "run.queued", "data": data}
    (draft,) = structured(event)
    assert draft.work == "pay"
    assert draft.extras[1] == start_hash("pay", {"cents": 500})
    assert binary(json.dumps(data).encode(), "application/json", type="run.queued").extras == draft.extras
    assert refused({**LEAST, "type": "run.queued"}).field == "events[0].data"


# Bodies.


def test_batches() -> None:
    """1 to 256 events in one array; one bad event refuses all."""
    assert [draft.type for draft in structured([LEAST, {**LEAST, "type": "b"}], Mode.BATCH)] == ["order.paid", "b"]
    assert len(structured([LEAST] * 256, Mode.BATCH)) == 256
    assert refused([LEAST] * 257, Mode.BATCH).type == "too-many-events"
    assert refused([], Mode.BATCH).type == "bad-event"
    assert refused([LEAST, {**LEAST, "specversion": "0.9"}], Mode.BATCH).field == "events[1].specversion"
    assert refused(["no object", LEAST], Mode.BATCH).field == "events[0]"
    assert refused(LEAST, Mode.BATCH).type == "bad-event"
    assert refused([LEAST]).field == "events[0]"


@pytest.mark.parametrize("body", [b"", b"{", b"\xef\xbb\xbf{}", b"\xff", b'{"a":NaN}', b"[" * 200, b"[1]x"])
def test_bodies_that_are_no_json(body: bytes) -> None:
    """400 bad-json in each mode that is JSON."""
    if body != b"[1]x":  # which is no object before it is no JSON
        assert refused(body).type == "bad-json"
        assert refused(body, Mode.BATCH).type == "bad-json"
    if body:
        assert refused_binary(body, "application/json").type == "bad-json"
        assert refused_binary(body).type == "bad-json"


def test_sizes() -> None:
    """64 KiB an event, in the body and as it is kept; 1 MiB a body."""
    assert refused({**LEAST, "data": "x" * MAX_EVENT}).type == "event-too-large"
    assert refused(b" " * (1024 * 1024 + 1)).type == "body-too-large"
    assert refused_binary(b"1" * (MAX_EVENT + 1), "application/json").type == "event-too-large"
    assert data_of(binary(b"1" * MAX_EVENT, "application/json")) == b"1" * MAX_EVENT
    problem = refused_binary(b"\xff" * MAX_EVENT, "image/png")
    assert (problem.type, problem.field) == ("event-too-large", "data")
    assert "base64" in problem.detail
    assert refused_binary(b"\x01" * 20_000, "text/plain").type == "event-too-large"


# Headers.


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%e2%82%ac", "€"),
        ("%41%2f", "A/"),
        ("%2541", "%41"),
        ('"order 7"', "order 7"),
        ('"a \\"b\\" \\\\ c"', 'a "b" \\ c'),
        ('"%22"', '"'),
        ("order 7", "order 7"),
        ("€".encode().decode("latin-1"), "€"),
    ],
)
def test_header_values(value: str, text: str) -> None:
    """Quotes are taken off, then it is percent-decoded once."""
    assert event_of(binary(subject=value))["labels"]["ce-subject"] == text


@pytest.mark.parametrize("value", ["%C0%A0", "%ff", "%", "%4", "%zz", '"open', '"a"b"', "\xff", "%00", "%0A", "", '""'])
def test_bad_header_values(value: str) -> None:
    """400 bad-event names the header: overlong or broken UTF-8, a lone percent sign, control characters, nothing at all."""
    problem = refused_binary(subject=value)
    assert (problem.type, problem.field) == ("bad-event", "ce-subject")


@pytest.mark.parametrize(
    ("headers", "types", "field", "slug"),
    [
        ([("ce-id", "2")], [], "ce-id", "bad-event"),
        ([("ce-datacontenttype", "text/plain")], [], "ce-datacontenttype", "bad-event"),
        ([("ce-data", "1")], [], "ce-data", "bad-event"),
        ([("ce-data_base64", "TWE=")], [], "ce-data_base64", "bad-event"),
        ([("ce-my-ext", "1")], [], "ce-my-ext", "bad-event"),
        ([("ce-", "1")], [], "ce-", "bad-event"),
        ([], ["text/plain", "text/plain"], "Content-Type", "media-type"),
        ([], ["nonsense"], "Content-Type", "bad-event"),
        ([], [""], "Content-Type", "bad-event"),
        ([], ["text/plain; charset=latin-1"], "Content-Type", "media-type"),
        ([], ["application/json; charset=utf-16"], "Content-Type", "media-type"),
    ],
)
def test_bad_headers(headers: list[tuple[str, str]], types: list[str], field: str, slug: str) -> None:
    """Repeated, misnamed, or saying what the body says."""
    given = [(f"ce-{name}", value) for name, value in LEAST.items()]
    with pytest.raises(Problem) as caught:
        read_binary([*given, *headers], types, [], b"1", max_event=MAX_EVENT)
    assert (caught.value.type, caught.value.field) == (slug, field)


@pytest.mark.parametrize("name", [*LEAST])
def test_missing_headers(name: str) -> None:
    """400 bad-event names the header."""
    headers = [(f"ce-{other}", value) for other, value in LEAST.items() if other != name]
    with pytest.raises(Problem) as caught:
        read_binary(headers, [], [], b"", max_event=MAX_EVENT)
    assert (caught.value.type, caught.value.field) == ("bad-event", f"ce-{name}")


def test_text_that_is_no_utf_8() -> None:
    """400 bad-event at the body."""
    problem = refused_binary(b"\xff", "text/plain")
    assert (problem.type, problem.field) == ("bad-event", "data")


# What cloudevents 2.2.0 for Python sends, as recorded.


SDK_HEADERS = {
    "ce-specversion": "1.0",
    "ce-id": "A-1",
    "ce-source": "/shop/eu",
    "ce-type": "shop.order.paid",
    "ce-subject": "order%207%20%E2%82%AC",
    "ce-time": "2026-11-24T17:31:00Z",
}


def test_python_sdk() -> None:
    """Its binary and structured modes say the same event."""
    (in_binary,) = read_binary(
        [*SDK_HEADERS.items()],
        [],  # it sends no content type unless the event has one
        [],
        b'{"cents": 500, "note": "f\\u00fcr"}',
        max_event=MAX_EVENT,
    )
    (as_structured,) = structured(
        '{"specversion": "1.0", "id": "A-1", "source": "/shop/eu", "type": "shop.order.paid", "subject": "order 7 \\u20ac", '
        '"time": "2026-11-24T17:31:00Z", "data": {"cents": 500, "note": "f\\u00fcr"}}'
    )
    assert event_of(in_binary) == event_of(as_structured)
    assert event_of(in_binary)["labels"]["ce-subject"] == "order 7 €"


# Malformed input.


_TEXT = st.text(max_size=80) | st.sampled_from(["1.0", "a.b", "2026-11-24T17:31:00Z", "TWE=", "text/plain", "%41", '"'])
_VALUE = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXT | st.lists(st.integers(), max_size=2)
)
_NAMES = st.sampled_from([*LEAST, "datacontenttype", "dataschema", "subject", "time", "data", "data_base64", "ext"])


def taken_or_refused(read: Callable[[], list[Draft]]) -> list[Draft]:
    """Nothing if it was refused, for a reason that is the sender's."""
    try:
        return read()
    except Problem as refusal:
        problem = refusal
    assert problem.status in (400, 413, 415)
    assert problem.detail
    return []


@given(st.dictionaries(_NAMES | st.text(max_size=5), _VALUE), st.booleans())
def test_any_members(members: dict[str, object], from_least: bool) -> None:
    """A problem of status 400 or 413, or an event that says what came."""
    event = {**LEAST, **members} if from_least else members
    drafts = taken_or_refused(lambda: structured(event))
    if not drafts:
        return
    (draft,) = drafts
    held = event_of(draft)
    assert draft.type == event["type"]
    assert held["labels"]["ce-id"] == event["id"]
    if event.get("data_base64") is None:
        assert held["data"] == event.get("data")


@given(st.binary(max_size=60), st.sampled_from([Mode.STRUCTURED, Mode.BATCH]))
def test_any_body(body: bytes, mode: Mode) -> None:
    """A problem, never another error."""
    with pytest.raises(Problem):
        structured(body, mode)


@given(
    st.lists(
        st.tuples(st.sampled_from([*LEAST, "subject", "time", "ext", "x-y"]), st.text(st.characters(max_codepoint=255)))
    ),
    st.lists(st.sampled_from(["application/json", "text/plain", "image/png", "x", ""]), max_size=2),
    st.binary(max_size=40),
)
def test_any_headers(headers: list[tuple[str, str]], types: list[str], body: bytes) -> None:
    """A problem, or an event."""
    given = {f"ce-{name}": value for name, value in LEAST.items()} | {f"ce-{name}": value for name, value in headers}
    for draft in taken_or_refused(lambda: read_binary([*given.items()], types, [], body, max_event=MAX_EVENT)):
        assert b"\n" not in draft.payload
        event_of(draft)
