"""Asking before something is destroyed."""

from __future__ import annotations

import sys

import typer

from processor.cli.exits import Usage
from processor.cli.output import Output

__all__ = ["confirm"]


def confirm(out: Output, question: str) -> None:
    """Asks once, on stderr; --yes answers for the user. Raises Usage where nobody can be asked, typer.Abort for a no."""
    if out.options.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Usage(f"{question} There is no terminal to ask at.", remedy="Give --yes.", field="--yes")
    typer.confirm(question, abort=True, err=True)
