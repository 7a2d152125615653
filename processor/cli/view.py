"""A run's events for eyes: assembled text, with steps, tools and log lines around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from processor.cli.output import STATUS_STYLE, Output
from processor.core.events import GAP, Event
from processor.core.json import dumps

__all__ = ["View", "text_of", "value_text"]

DIM = "bright_black"
MAX_VALUE = 200  # characters of a tool's arguments or result; all of it is in --json
LEVEL_STYLE = {"debug": DIM, "info": "", "warning": "yellow", "error": "red", "critical": "bold red"}


def text_of(event: Event[Any]) -> str:
    """What --text prints: the answer, without reasoning, arguments and logs."""
    return event.text if event.type == "message.delta" else ""


class View:
    """Draws one run. Text streams as it comes; with a label (several runs at once) only whole lines do."""

    def __init__(self, out: Output, label: str = "") -> None:
        self._out = out
        self._label = label
        self._steps: dict[str, str] = {}  # open ones, ID -> name, in order
        self._tools: dict[str, str] = {}  # ID -> name
        self._told: set[str] = set()  # tools whose call has been drawn
        self._line = ""  # of a labelled view: text without its LF yet
        self._open = ""  # style of the text line that is being written
        self._writing = False

    def show(self, event: Event[Any]) -> None:
        """Draw one event. Members that are absent or ill-typed are passed over, as readers do."""
        data = event.data if isinstance(event.data, dict) else {}
        family, _, verb = event.type.partition(".")
        if event.type in ("message.delta", "reasoning.delta"):
            self._text(event.text, DIM if family == "reasoning" else "")
            return
        draw = getattr(self, f"_{family}", None) if family in ("run", "step", "tool", "message", "reasoning") else None
        if draw is not None:
            draw(verb, data)
        elif event.type == "log":
            self._log(data)
        elif event.type in ("state.set", "state.patch"):
            self._put(f"state {_state(event.data)}", DIM)
        elif event.type == "usage":
            self._put(f"usage {value_text(event.data)}", DIM)
        elif event.type == GAP:
            said = f"events {data.get('from')} to {data.get('to')} cannot be had any more ({data.get('reason')})"
            self._put(said, "yellow")
        else:
            self._put(f"{event.type} {value_text(event.data)}")

    def close(self) -> None:
        """End the line that is being written."""
        if self._label:
            if self._line:
                self._flush(self._line)
            self._line = ""
        elif self._writing:
            self._out.write("\n")
        self._writing = False

    def _run(self, verb: str, data: Mapping[str, Any]) -> None:
        if verb == "started":
            self.close()
        elif verb == "retrying":
            said = f"attempt ended: {data.get('error') or data.get('reason')}; another one follows"
            self._steps.clear()
            self._put(said, "yellow")
        elif verb == "waiting":
            self._put(f"asks: {data.get('question')}", "magenta")
        elif verb == "resumed":
            self._put(f"answer: {value_text(data.get('value'))}", "magenta")
        elif verb == "queued":
            self._put(f"queued: {data.get('task')} {value_text(data.get('input', {}))}", DIM)
        elif verb == "cancel_requested":
            self._put(f"asked to stop{_because(data.get('reason'))}", "yellow")
        else:
            self._end(verb, data)

    def _end(self, verb: str, data: Mapping[str, Any]) -> None:
        self._steps.clear()
        status = {"finished": "succeeded"}.get(verb, verb)
        if verb == "finished":
            said = "" if data.get("result") is None else f" {value_text(data['result'])}"
        elif verb == "failed":
            said = f": {data.get('error') or data.get('reason')}"
        else:
            said = _because(data.get("reason"))
        self._put(f"{status}{said}", STATUS_STYLE.get(status, ""))

    def _step(self, verb: str, data: Mapping[str, Any]) -> None:
        id = str(data.get("step"))
        if verb == "started":
            self._put(f"● {data.get('name')}", "bold")
            self._steps[id] = str(data.get("name"))
        elif verb == "finished":
            self.close()
            name = self._steps.pop(id, id)
            if data.get("error"):
                self._put(f"✗ {name}: {data['error']}", "red")

    def _tool(self, verb: str, data: Mapping[str, Any]) -> None:
        id = str(data.get("tool"))
        if verb == "started":
            self._tools[id] = str(data.get("name"))
            return
        name = self._tools.get(id, id)
        if id not in self._told and verb in ("ready", "result", "error"):
            self._told.add(id)
            arguments = value_text(data["args"]) if verb == "ready" and "args" in data else ""
            self._put(f"⚙ {name} {arguments}".rstrip(), "cyan")
        if verb == "result":
            self._put(f"  → {value_text(data.get('value'))}", DIM)
        elif verb == "error":
            self._put(f"  ✗ {data.get('error')}", "red")

    def _message(self, verb: str, data: Mapping[str, Any]) -> None:
        self.close()

    _reasoning = _message

    def _log(self, data: Mapping[str, Any]) -> None:
        lines = data.get("lines")
        style = LEVEL_STYLE.get(str(data.get("level")), "")
        fields = data.get("fields")
        more = (
            " ".join(f"{name}={value_text(value)}" for name, value in fields.items())
            if isinstance(fields, dict)
            else ""
        )
        for line in lines if isinstance(lines, list) else []:
            self._put(f"{line}  {more}".rstrip() if more else str(line), style or DIM)
            more = ""

    def _put(self, line: str, style: str = "") -> None:
        """A line of its own, indented by the open steps."""
        self.close()
        for part in line.split("\n"):
            self._flush("  " * len(self._steps) + part, style)

    def _flush(self, line: str, style: str = "") -> None:
        label = (f"{self._label} │ ", DIM)
        self._out.line(Text.assemble(label, (line, style)) if self._label else Text(line, style=style))

    def _text(self, text: str, style: str) -> None:
        indent = "  " * len(self._steps)
        if self._label:
            *whole, self._line = (self._line + text).split("\n")
            for line in whole:
                self._flush(indent + line, style)
            return
        if self._writing and style != self._open:
            self.close()
        self._open = style
        for number, part in enumerate(text.split("\n")):
            if number:
                self._out.write("\n")
                self._writing = False
            if part:
                self._out.write(part if self._writing else indent + part, style)
                self._writing = True


def value_text(value: object) -> str:
    """In one line, cut at MAX_VALUE characters."""
    text = value if isinstance(value, str) else dumps(value).decode()
    text = text.replace("\n", "↵")
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}… ({len(text)} characters)"


def _because(reason: object) -> str:
    return f": {reason}" if reason else ""


def _state(data: object) -> str:
    """A patch as `name=value`; anything else as it is."""
    if isinstance(data, list) and all(isinstance(op, dict) and op.get("op") in ("add", "replace") for op in data):
        return " ".join(f"{str(op.get('path', '')).lstrip('/')}={value_text(op.get('value'))}" for op in data)
    return value_text(data)
