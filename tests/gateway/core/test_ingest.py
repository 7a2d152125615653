"""Bodies -> events: what is taken, what is kept as it came, what is refused and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.ingest import Media, check_body_size, media_of, read_events, read_members
from gateway.core.problems import Problem
from processor.core.events import Draft
from processor.core.start import start_hash

MAX_EVENT = 64 * 1024


def read(body: str | bytes, media: Media = Media.JSON) -> list[Draft]:
    return read_events(body.encode() if isinstance(body, str) else body, media, max_event=MAX_EVENT)


def data_of(draft: Draft) -> bytes:
    """What stands behind "data": in a payload that has nothing but type and data."""
    head = b'"type":"%b","data":' % draft.type.encode()
    assert draft.payload.startswith(head)
    assert draft.payload.endswith(b"}")
    return draft.payload[len(head) : -1]


def refused(body: str | bytes, media: Media = Media.JSON) -> Problem:
    with pytest.raises(Problem) as caught:
        read(body, media)
    return caught.value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
STYLES: list[dict[str, Any]] = [
    {"separators": (",", ":")},
    {},
    {"indent": 2},
    {"ensure_ascii": False},
    {"indent": "\t", "ensure_ascii": False},
]


@given(data=JSON, style=st.sampled_from(STYLES), many=st.booleans())
def test_data_of_any_value_in_any_style_is_kept_as_it_was_written(
    data: object, style: dict[str, Any], many: bool
) -> None:
    """What an encoder wrote for data stands in the payload, line ends as spaces, whatever stands around it."""
    event = {"type": "a.b", "data": data}
    body = json.dumps([event, event] if many else event, **style)
    drafts = read(body.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if "ensure_ascii" in style else body)
    assert len(drafts) == (2 if many else 1)
    for draft in drafts:
        assert b"\n" not in draft.payload
        assert json.loads(data_of(draft)) == data
        assert json.loads(b"{" + draft.payload) == event


@given(data=JSON, style=st.sampled_from(STYLES), before=st.text(" \t\r\n"), behind=st.text(" \t\r\n"))
def test_data_is_what_stands_between_the_tokens(data: object, style: dict[str, Any], before: str, behind: str) -> None:
    """White space around the value stays too; only CR and LF become spaces."""
    text = before + json.dumps(data, **style) + behind
    (draft,) = read('{"type":"a","data":' + text + "}")
    assert data_of(draft) == text.replace("\r", " ").replace("\n", " ").encode()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_what_is_taken_is_json_and_what_is_json_is_taken(data: bytes) -> None:
    """The scanner and json.loads agree on every text as data."""
    body = b'{"type":"a","data":' + data + b"}"
    try:
        parsed = json.loads(body.decode(), parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError, RecursionError):
        assert refused(body).type == "bad-json"
        return
    if set(parsed) == {"type", "data"} and parsed["type"] == "a":
        assert json.loads(b"{" + read(body)[0].payload) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "1e400",
        "-0.0",
        "1.50",
        "1E+2",
        "123456789012345678901234567890",
        "9" * 5000,
        '"\\ud800"',
        '"\\u0000"',
        '"\\/\\u00e9"',
        '{"b":1,"a":2,"b":3}',
        '{ "a" : [ ] }',
        '"\u2028\u2029\u0085\u007f"',
        "[[]]",
        "true",
        "null",
        '""',
    ],
)
def test_texts_that_parsers_change_are_kept(text: str) -> None:
    """Number text, escapes, member order, repeated members, NUL and lone surrogate escapes stay."""
    assert data_of(read('{"type":"a","data":' + text + "}")[0]) == text.encode()
    assert data_of(read('{"data":' + text + ',"type":"a"}')[0]) == text.encode()


def test_members_may_stand_in_any_order_and_data_may_be_absent() -> None:
    """data defaults to null; labels and traceparent go into the payload."""
    assert data_of(read('{"type":"a"}')[0]) == b"null"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = f'{{"traceparent":"{trace}","labels":{{"b":"2","a":"1"}},"data":[1, 2],"type":"a.b_c-d"}}'
    assert read(body)[0].payload == (
        b'"type":"a.b_c-d","labels":{"b":"2","a":"1"},"traceparent":"%b","data":[1, 2]}' % trace.encode()
    )


def test_of_members_that_occur_twice_the_last_counts() -> None:
    """Also when they are written with escapes, and when an earlier one would not be taken."""
    (draft,) = read(
        '{"type":"bad type","data":1,"labels":5,"data":2,"\\u0074ype":"b","labels":{"x":"1","x":"2"},"data":3}'
    )
    assert draft.payload == b'"type":"b","labels":{"x":"2"},"data":3}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b'{"type"',
        b'{"type":',
        b'{"type":"a"',
        b'{"type":"a",',
        b'{"type":"a",}',
        b'{"type" "a"}',
        b"{'type':'a'}",
        b"{type:1}",
        b'{"type":"a"} x',
        b'{"type":"a"}{"type":"a"}',
        b'[{"type":"a"}',
        b'[{"type":"a"},]',
        b'[{"type":"a"} {"type":"a"}]',
        b'[,{"type":"a"}]',
        b'{"type":"a","data":}',
        b'{"type":"a","data":NaN}',
        b'{"type":"a","data":[Infinity]}',
        b'{"type":"a","data":-Infinity}',
        b'{"type":"a","data":01}',
        b'{"type":"a","data":+1}',
        b'{"type":"a","data":1.}',
        b'{"type":"a","data":.5}',
        b'{"type":"a","data":tru}',
        b'{"type":"a","data":"\x01"}',
        b'{"type":"a","data":"a\nb"}',
        b'{"type":"a","data":"\\x"}',
        b'{"type":"a","data":"\\u12g4"}',
        b'{"type":"a","data":"\xff"}',
        b'{"type":"a","data":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"type":"a"}',
        '{"type":"a"}'.encode("utf-16"),
        b'{"type":"a","data":1}\x00',
        b'{"type":"a","data":\xc2\xa01}',
        b'{"type":"a","data":' + b"9" * 5000 + b",}",
        b'{"type":"a","data":"' + b'\\"' * 20000,
        b'{"type":"a","data":/* no */1}',
    ],
)
def test_bad_json_is_refused(body: bytes) -> None:
    """As WIRE 2 lists it, with a remedy and what stands there."""
    refusal = refused(body)
    assert refusal.type == "bad-json"
    assert refusal.status == 400
    assert refusal.remedy


def test_depth_is_128_at_most() -> None:
    """Counted over the whole text; brackets inside strings do not count."""
    inner = 127
    assert read('{"type":"a","data":' + "[" * inner + "]" * inner + "}")
    assert refused('{"type":"a","data":' + "[" * 128 + "]" * 128 + "}").type == "bad-json"
    assert refused('{"type":"a","data":' + "[" * 30000 + "]" * 30000 + "}").type == "bad-json"
    assert refused('{"type":"a","data":' + '{"a":' * 30000).type == "bad-json"
    assert read('{"type":"a","data":' + json.dumps('[{\\"' * 5000) + "}")
    assert read('{"type":"a","data":[' + ",".join(["[]"] * 5000) + "]}")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("[]", None),
        ("5", "events[0]"),
        ('"a"', "events[0]"),
        ('[{"type":"a"},[]]', "events[1]"),
        ("[null]", "events[0]"),
        ("{}", "events[0].type"),
        ('{"data":1}', "events[0].type"),
        ('{"type":5}', "events[0].type"),
        ('{"type":null}', "events[0].type"),
        ('{"type":""}', "events[0].type"),
        ('{"type":"a..b"}', "events[0].type"),
        ('{"type":".a"}', "events[0].type"),
        ('{"type":"a b"}', "events[0].type"),
        ('{"type":"ä"}', "events[0].type"),
        ('{"type":"a\\n"}', "events[0].type"),
        ('{"type":"tailrace.gap"}', "events[0].type"),
        ('{"type":"%s"}' % ("a" * 129), "events[0].type"),
        ('[{"type":"a"},{"type":"b","id":"1"}]', "events[1].id"),
        ('{"type":"a","attempt":1}', "events[0].attempt"),
        ('{"type":"a","Data":1}', "events[0].Data"),
        ('{"type":"a","labels":null}', "events[0].labels"),
        ('{"type":"a","labels":[]}', "events[0].labels"),
        ('{"type":"a","labels":{"a":1}}', "events[0].labels.a"),
        ('{"type":"a","labels":{"a":"%s"}}' % ("ä" * 33), "events[0].labels.a"),
        ('{"type":"a","labels":{"a":"\\ud800"}}', "events[0].labels.a"),
        ('{"type":"a","labels":{"a b":"1"}}', "events[0].labels"),
        ('{"type":"a","labels":{"":"1"}}', "events[0].labels"),
        ('{"type":"a","labels":{"%s":"1"}}' % ("a" * 63), "events[0].labels"),
        ('{{"type":"a","labels":{}}}'.format(json.dumps({f"l{i}": "" for i in range(33)})), "events[0].labels"),
        ('{"type":"a","traceparent":5}', "events[0].traceparent"),
        ('{"type":"a","traceparent":""}', "events[0].traceparent"),
        ('{{"type":"a","traceparent":"00-{}-{}-01"}}'.format("0" * 32, "1" * 16), "events[0].traceparent"),
        ('{{"type":"a","traceparent":"00-{}-{}-01"}}'.format("1" * 32, "0" * 16), "events[0].traceparent"),
        ('{{"type":"a","traceparent":"ff-{}-{}-01"}}'.format("1" * 32, "1" * 16), "events[0].traceparent"),
        ('{{"type":"a","traceparent":"00-{}-{}-01-x"}}'.format("1" * 32, "1" * 16), "events[0].traceparent"),
        ('{{"type":"a","traceparent":"00-{}-{}-01"}}'.format("A" * 32, "1" * 16), "events[0].traceparent"),
        ('{"type":"run.queued"}', "events[0].data"),
        ('{"type":"run.queued","data":[]}', "events[0].data"),
        ('{"type":"run.queued","data":{}}', "events[0].data.task"),
        ('{"type":"run.queued","data":{"task":5}}', "events[0].data.task"),
        ('{"type":"run.queued","data":{"task":"a b"}}', "events[0].data.task"),
        ('{"type":"run.queued","data":{"task":"a","input":[]}}', "events[0].data.input"),
        ('{"type":"run.queued","data":{"task":"a","input":null}}', "events[0].data.input"),
    ],
)
def test_bad_events_are_refused_by_name(body: str, where: str | None) -> None:
    """400 bad-event names the member that is wrong."""
    refusal = refused(body)
    assert refusal.type == "bad-event"
    assert refusal.field == where
    assert refusal.remedy


def test_the_limits_of_labels_and_names_are_inclusive() -> None:
    """32 labels, names of 62 characters, values of 64 bytes, types of 128 characters are taken."""
    labels = {f"{i:02}" + "n" * 60: "ä" * 32 for i in range(32)}
    (draft,) = read(json.dumps({"type": "t" * 128, "labels": labels}))
    assert json.loads(b"{" + draft.payload)["labels"] == labels


def test_events_are_at_most_64_kib_in_the_body() -> None:
    """One byte more is 413 event-too-large, in every form, in bytes rather than characters."""

    def event(size: int, letter: str = "x") -> str:
        head, tail = '{"type":"a","data":"', '"}'
        count, rest = divmod(size - len(head) - len(tail), len(letter.encode()))
        return head + letter * count + "y" * rest + tail

    assert read(event(MAX_EVENT))
    assert read(event(MAX_EVENT, "ä"))
    assert read(f"[{event(MAX_EVENT)}, {event(MAX_EVENT)}]")
    assert read(f"  {event(MAX_EVENT)}\r\n\n", Media.NDJSON)
    for body, media, where in [
        (event(MAX_EVENT + 1), Media.JSON, "events[0]"),
        (event(MAX_EVENT + 1, "ä"), Media.JSON, "events[0]"),
        (f"[{event(50)}, {event(MAX_EVENT + 1)}]", Media.JSON, "events[1]"),
        (f"{event(50)}\n{event(MAX_EVENT + 1)}", Media.NDJSON, "events[1]"),
    ]:
        refusal = refused(body, media)
        assert refusal.type == "event-too-large"
        assert refusal.field == where


def test_256_events_are_taken_and_one_more_refused() -> None:
    """In an array and as lines."""
    one = '{"type":"a"}'
    assert len(read("[" + ",".join([one] * 256) + "]")) == 256
    assert len(read("\n".join([one] * 256), Media.NDJSON)) == 256
    assert refused("[" + ",".join([one] * 257) + "]").type == "too-many-events"
    assert refused("\n".join([one] * 257), Media.NDJSON).type == "too-many-events"


def test_a_body_is_at_most_one_mib() -> None:
    """Judged before anything is read."""
    check_body_size(1024 * 1024)
    with pytest.raises(Problem) as caught:
        check_body_size(1024 * 1024 + 1)
    assert (caught.value.type, caught.value.status) == ("body-too-large", 413)
    assert refused(b" " * (1024 * 1024 + 1)).type == "body-too-large"


def test_ndjson_is_one_event_a_line() -> None:
    """LF or CRLF, the last one optional, blank lines ignored, never split at U+2028."""
    drafts = read('{"type":"a","data":"\u2028"}\r\n\n  \n{"type":"b"}\n{"type":"c" ,\r"data":\t1}', Media.NDJSON)
    assert [d.type for d in drafts] == ["a", "b", "c"]
    assert data_of(drafts[0]) == '"\u2028"'.encode()
    assert data_of(drafts[2]) == b"\t1"


@pytest.mark.parametrize(
    ("body", "expected", "line"),
    [
        (b'{"type":"a"}\n{"type":"b",}\n', "bad-json", 2),
        (b'{"type":"a"}\n\n\xff', "bad-json", 3),
        (b'{"type":"a"}\r\n{"type":"a"} {"type":"a"}', "bad-json", 2),
        (b'{"type":"a"}\n[{"type":"a"}]', "bad-event", 2),
        (b'{"type":"a"}\n\n{"type":"a","x":1}', "bad-event", 3),
        (b'\xef\xbb\xbf{"type":"a"}', "bad-json", 1),
        (b'{"type":\n"a"}', "bad-json", 1),
        (b'{"type":"a"}\n{"type":"a b"}', "bad-event", 2),
        (b'{"type":"a"}\n{"type":"run.queued"}', "bad-event", 2),
    ],
)
def test_ndjson_errors_name_the_line(body: bytes, expected: str, line: int) -> None:
    """From 1, blank lines counted."""
    with pytest.raises(Problem) as caught:
        read(body, Media.NDJSON)
    assert (caught.value.type, caught.value.extra["line"]) == (expected, line)


def test_a_body_without_events_is_refused() -> None:
    """Blank lines alone are no events."""
    assert refused(b"\n\r\n", Media.NDJSON).type == "bad-event"
    assert refused(b"", Media.NDJSON).type == "bad-event"


def test_one_bad_event_refuses_the_whole_body() -> None:
    """Whatever stands before it."""
    assert refused('[{"type":"a"},{"type":"b"},{"type":"!"}]').field == "events[2].type"


def test_lifecycle_events_bring_what_the_script_may_not_read() -> None:
    """Task and start hash, ask, value and error, next to the payload."""
    queued, started, bare, waiting, resumed, failed = read(
        """[{"type":"run.queued","labels":{"user":"7"},"data":{"input":{"b":1,"a":2},"task":"answer"}},
            {"type":"run.started","data":{"task":"answer","input":{"a":2,"b":1}}},
            {"type":"run.started","data":{"task":"not a name"}},
            {"type":"run.waiting","data":{"ask":"q1","question":"?"}},
            {"type":"run.resumed","data":{"ask":"q1","value": {"x":
              1.50} }},
            {"type":"run.failed","data":{"error":"it \\ud800 broke"}}]"""
    )
    start = start_hash("answer", {"a": 2, "b": 1})
    assert queued.extras == ("answer", start, "", 0, 1, "user", "7")
    assert queued.work == "answer"
    assert started.extras == ("", "", start, "answer", "", 0)
    assert bare.extras == ("", "", "", "", "", 0)
    assert waiting.extras == ("q1",)
    assert resumed.extras[0] == "q1"
    assert resumed.extras[1] == b'{"x":               1.50}'
    assert failed.extras == (b'"it \\ud800 broke"',)


@pytest.mark.parametrize(
    "data", ["null", "5", "[]", "{}", '{"ask":5,"error":[],"task":{}}', '{"ask":"\\ud800","error":null}']
)
def test_ill_typed_members_of_lifecycle_data_count_as_absent(data: str) -> None:
    """From outside any data is taken, except run.queued's."""
    started, waiting, resumed, failed = read(
        "[" + ",".join(f'{{"type":"run.{t}","data":{data}}}' for t in ("started", "waiting", "resumed", "failed")) + "]"
    )
    assert started.extras == ("", "", "", "", "", 0)
    assert waiting.extras == ("",)
    assert resumed.extras == ("", b"null", "")
    assert failed.extras == (b'""',)


def test_start_hash_knows_what_orjson_would_lose() -> None:
    """Keys in any order are equal; whole numbers beyond 64 bits differ; input defaults to {}."""
    big = [
        read(json.dumps({"type": "run.queued", "data": {"task": "t", "input": {"n": 10**30 + i}}}))[0].extras[1]
        for i in (0, 1)
    ]
    assert big[0] != big[1]
    assert read('{"type":"run.queued","data":{"task":"t"}}')[0].extras[1] == start_hash("t", {})
    assert len(start_hash("t", {"a": "\ud800"})) == 64


@pytest.mark.parametrize(
    ("types", "encodings", "expected"),
    [
        (["application/json"], [], Media.JSON),
        (["Application/JSON; charset=UTF-8"], ["identity"], Media.JSON),
        (['application/json;charset="utf-8"'], [], Media.JSON),
        (["application/json; profile=x"], [], Media.JSON),
        (["application/x-ndjson"], [], Media.NDJSON),
        (["application/ndjson"], [], Media.NDJSON),
    ],
)
def test_media_types_that_are_taken(types: list[str], encodings: list[str], expected: Media) -> None:
    """Case and further parameters do not matter."""
    assert media_of(types, encodings) is expected


@pytest.mark.parametrize(
    ("types", "encodings"),
    [
        ([], []),
        ([""], []),
        (["text/plain"], []),
        (["application/octet-stream"], []),
        (["application/x-www-form-urlencoded"], []),
        (["application/json; charset=latin-1"], []),
        (["application/json", "application/json"], []),
        (["application/json"], ["gzip"]),
        (["application/json"], ["identity", "br"]),
        (["application/cloudevents+json"], []),
        (["json"], []),
    ],
)
def test_other_media_types_are_refused(types: list[str], encodings: list[str]) -> None:
    """415 media-type; nothing is decompressed."""
    with pytest.raises(Problem) as caught:
        media_of(types, encodings)
    assert (caught.value.type, caught.value.status) == ("media-type", 415)


def test_members_of_other_bodies_keep_their_text() -> None:
    """POST /runs, cancel and inputs read one object of known members."""
    members = read_members(b' {"ask":"q","value": [1.50 ]} \n', ("ask", "value"), max_event=MAX_EVENT)
    assert members["value"].text == " [1.50 ]"
    assert members["ask"].value == "q"
    for body, expected in [(b"[]", "bad-event"), (b'{"x":1}', "bad-event"), (b"{", "bad-json"), (b"{} 5", "bad-json")]:
        with pytest.raises(Problem) as caught:
            read_members(body, ("ask", "value"), max_event=MAX_EVENT)
        assert caught.value.type == expected
