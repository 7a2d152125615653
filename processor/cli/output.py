"""Data on stdout, talk on stderr: tables and colour at a terminal, one JSON object a line elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import orjson
import typer
from rich.console import Console
from rich.text import Text

from processor.cli.options import Options, options_of
from processor.core.errors import TailraceError
from processor.core.json import dumps

__all__ = [
    "STATUS_STYLE",
    "ClosedPipe",
    "Output",
    "forget_stdout",
    "harmless",
    "output_of",
    "status_text",
    "table_text",
]

STATUS_STYLE = {
    "queued": "yellow",
    "running": "cyan",
    "waiting": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "bright_black",
}


# What a terminal would obey instead of showing: events come from anywhere, and ESC could retitle or repaint the window.
# One character for one, so that styles stay where they are: control pictures for C0 and DEL, U+FFFD for C1.
_OBEYED = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}


def harmless(text: str) -> str:
    """The text with control characters shown instead of obeyed; LF and tab stay."""
    return text.translate(_OBEYED)


class ClosedPipe(Exception):
    """Nobody reads our stdout any more. No OSError: what lies between makes its own endings of those."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise ClosedPipe


def _console(file: TextIO, options: Options) -> Console:
    """Lines run on instead of being cut at the window's width: half an ID is of no use."""
    colour = options.color and not os.environ.get("NO_COLOR")
    return _Console(file=file, color_system="auto" if colour else None, highlight=False, soft_wrap=True)


class Output:
    """Where a command's words go. `pretty` is false in a pipe and with --json: then only `record` writes to stdout."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pretty = sys.stdout.isatty() and not options.json
        self.console = _console(sys.stdout, options)
        self._talk = _console(sys.stderr, options)

    def record(self, data: Mapping[str, Any] | bytes) -> None:
        """One JSON object and LF; bytes are one already, and pass as they are."""
        line = data if isinstance(data, bytes) else orjson.dumps(data, default=str)
        self.raw(line + b"\n")

    def raw(self, data: bytes) -> None:
        """These bytes, in a pipe as at a terminal."""
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise ClosedPipe from None

    def line(self, text: str | Text = "") -> None:
        """For eyes, at a terminal."""
        self.console.print(_harmless(text))

    def write(self, text: str, style: str = "") -> None:
        """Text that goes on in the same line."""
        self.console.print(Text(harmless(text), style=style), end="")
        self.console.file.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> None:
        self.console.print(table_text(columns, rows))

    def say(self, sentence: str) -> None:
        """Talk: what happens, hints. Silent with -q."""
        if not self.options.quiet:
            self._talk.print(_harmless(sentence))

    def error(self, error: TailraceError) -> None:
        """`error[slug]: message`, then two spaces and the remedy; with --json one object. Always on stderr."""
        if self.options.json:
            told = {"error": error.code, "message": error.message, "remedy": error.remedy}
            sys.stderr.write(dumps(told).decode() + "\n")  # a word of the command line may be no UTF-8
            return
        self._tell(Text(f"error[{error.code}]", "bold red"), error)

    def warning(self, error: TailraceError) -> None:
        """The same, of what does not end the command; for eyes."""
        if not self.options.quiet:
            self._tell(Text(f"warning[{error.code}]", "bold yellow"), error)

    def _tell(self, head: Text, error: TailraceError) -> None:
        text = Text.assemble(head, f": {error.message}")
        if error.remedy:
            text.append("\n  " + error.remedy.replace("\n", "\n  "))
        self._talk.print(_harmless(text))


def output_of(ctx: typer.Context) -> Output:
    return Output(options_of(ctx))


def _harmless(text: str | Text) -> Text:
    whole = text if isinstance(text, Text) else Text(text)
    whole.plain = harmless(whole.plain)
    return whole


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Text:
    """Columns as wide as their widest cell. Nothing is cut: an ID or a path that is not whole is of no use."""
    cells = [[_harmless(cell) for cell in row] for row in rows]
    head = [Text(column, style="bold") for column in columns]
    widths = [max(row[place].cell_len for row in [head, *cells]) for place in range(len(columns))]
    lines = []
    for row in [head, *cells]:
        line = Text()
        for cell, width in zip(row[:-1], widths, strict=False):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        lines.append(line.append_text(row[-1]))
    return Text("\n").join(lines)


def status_text(status: str) -> Text:
    return Text(status, style=STATUS_STYLE.get(status, ""))


def forget_stdout() -> None:
    """After a closed pipe: what the interpreter still flushes at its end goes nowhere instead of raising."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
