from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from processor.cli.options import Options
from processor.cli.output import Output, table_text
from processor.cli.view import View, text_of
from processor.core.cursor import FeedId
from processor.core.events import Event, compose, gap_event
from processor.core.json import dumps


def _seen(*events: tuple[str, Any], label: str = "") -> str:
    """What a person sees of these events."""
    out = Output(Options())
    out.console = Console(file=io.StringIO(), color_system=None, soft_wrap=True, highlight=False)
    view = View(out, label)
    for number, (type, data) in enumerate(events, 1):
        view.show(Event("r", FeedId(number, 0), compose(type, dumps(data))))
    view.close()
    assert isinstance(out.console.file, io.StringIO)
    return out.console.file.getvalue()


def test_text_streams_and_is_indented_in_a_step() -> None:
    """Deltas of one message run on; lines in a step stand under it."""
    assert (
        _seen(
            ("message.delta", {"text": "a"}),
            ("message.delta", {"text": "b\nc"}),
            ("step.started", {"step": "1", "name": "look"}),
            ("message.delta", {"text": "d\n\ne"}),
            ("step.finished", {"step": "1"}),
            ("message.delta", {"text": "f"}),
        )
        == "ab\nc\n● look\n  d\n\n  e\nf\n"
    )


def test_messages_and_reasoning_are_apart() -> None:
    """A finished message ends its line, and reasoning never runs into the answer."""
    assert (
        _seen(
            ("reasoning.delta", {"text": "hm"}),
            ("message.delta", {"text": "a"}),
            ("message.finished", {"message": "m"}),
            ("message.delta", {"text": "b"}),
        )
        == "hm\na\nb\n"
    )


@pytest.mark.parametrize(
    ("type", "data", "line"),
    [
        ("run.failed", {"error": "it broke", "reason": "error"}, "failed: it broke"),
        ("run.failed", {"reason": "silent"}, "failed: silent"),
        ("run.cancelled", {"reason": ""}, "cancelled"),
        ("run.cancelled", {"reason": "enough"}, "cancelled: enough"),
        ("run.finished", {"result": None}, "succeeded"),
        ("run.queued", {"task": "t", "input": {"a": 1}}, 'queued: t {"a":1}'),
        ("run.waiting", {"question": "sure?"}, "asks: sure?"),
        ("run.resumed", {"value": True}, "answer: true"),
        ("run.retrying", {"reason": "owner_lost"}, "attempt ended: owner_lost; another one follows"),
        ("run.cancel_requested", {"reason": "enough"}, "asked to stop: enough"),
        ("step.finished", {"step": "1", "error": "no"}, "✗ 1: no"),
        ("tool.error", {"tool": "t", "error": "no"}, "⚙ t\n  ✗ no"),
        ("log", {"level": "info", "lines": ["a"], "fields": {"n": 1}}, "a  n=1"),
        ("state.set", {"a": 1}, 'state {"a":1}'),
        ("usage", {"model": "m"}, 'usage {"model":"m"}'),
        ("order.paid", {"text": "a\nb"}, 'order.paid {"text":"a\\nb"}'),
        ("order.paid", "x" * 300, f"order.paid {'x' * 200}… (300 characters)"),
    ],
)
def test_lines(type: str, data: object, line: str) -> None:
    """Each kind of event has a line of its own."""
    assert _seen((type, data)) == f"{line}\n"


@pytest.mark.parametrize("data", [None, 1, "x", [], [1], {"lines": 3}, {"text": 7}, {"tool": None}])
@pytest.mark.parametrize("type", ["run.failed", "step.started", "tool.result", "log", "message.delta", "state.patch"])
def test_ill_typed_data_is_passed_over(type: str, data: object) -> None:
    """From outside any data may come: a view draws what it can and never fails."""
    _seen((type, data), (type, data))


def test_a_gap_is_told() -> None:
    """What is missing is said."""
    out = Output(Options())
    out.console = Console(file=io.StringIO(), color_system=None, soft_wrap=True)
    View(out).show(gap_event("r", 1, 5, "trimmed", {}))
    assert isinstance(out.console.file, io.StringIO)
    assert out.console.file.getvalue() == "events 1 to 5 cannot be had any more (trimmed)\n"


def test_several_runs_write_whole_lines() -> None:
    """With a label text waits for its line to be whole, so that runs do not mix within one."""
    seen = _seen(("message.delta", {"text": "a"}), ("message.delta", {"text": "b\nc"}), ("x.y", 1), label="r1")
    assert seen == "r1 │ ab\nr1 │ c\nr1 │ x.y 1\n"


def test_control_characters_are_shown_not_obeyed() -> None:
    """Whoever writes events cannot repaint the terminal of whoever reads them."""
    seen = _seen(
        ("message.delta", {"text": "a\x1b[2Jb\x9b2Jc\r\x07"}),
        ("log", {"level": "info", "lines": ["\x1b]0;title\x07"]}),
        ("run.failed", {"error": "\x7f\x00"}),
    )
    assert seen == "a␛[2Jb�2Jc␍␇\n␛]0;title\nfailed: ␡␀\n"
    assert table_text(("A",), [["\x1b[31m"]]).plain == "A\n␛[31m"


def test_text_of() -> None:
    """--text is the answer alone."""
    events = [("message.delta", {"text": "a"}), ("reasoning.delta", {"text": "b"}), ("log", {"lines": ["c"]})]
    assert [text_of(Event("r", FeedId(1, 0), compose(type, dumps(data)))) for type, data in events] == ["a", "", ""]
