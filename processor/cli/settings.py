"""`tailrace settings`: every setting, its value, where it came from."""

from __future__ import annotations

import difflib
import os

import typer
from rich.text import Text

from processor.cli.output import output_of
from processor.core.settings import unknown_variables, variable_of

__all__ = ["settings", "slips"]


def settings(ctx: typer.Context) -> None:
    """Every setting, its value, and where it came from."""
    out = output_of(ctx)
    found = out.options.settings()
    rows: list[tuple[str | Text, str | Text, str | Text]] = []
    for name, value in found.shown().items():
        origin = found.origin(name)
        if out.pretty:
            dim = "bright_black" if origin == "default" else ""
            rows.append((Text(variable_of(name), style=dim), Text(_text(value), style=dim), Text(origin, style=dim)))
        else:
            out.record({"setting": variable_of(name), "value": value, "origin": origin})
    if rows:
        out.table(("SETTING", "VALUE", "FROM"), rows)
    for slip in slips():
        out.say(slip)


def slips() -> list[str]:
    """A sentence for each variable of the environment that begins as ours do and is none."""
    known = [variable_of(name) for name in _names()]
    told = []
    for variable in unknown_variables(os.environ):
        near = difflib.get_close_matches(variable, known, n=1)
        told.append(f"{variable} is set and names no setting." + (f" Perhaps {near[0]}?" if near else ""))
    return told


def _names() -> list[str]:
    from processor.core.settings import Settings

    return list(Settings().shown())


def _text(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
