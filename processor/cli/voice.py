"""What a server has to tell: a sentence for the person at its terminal, an event with fields for logs."""

from __future__ import annotations

import sys
from typing import Final

import structlog

from processor.cli.output import Output
from processor.core.settings import Settings

__all__ = ["Voice", "speaks_to_people"]

_TROUBLE: Final = {"process_died", "start_failed", "reload_failed", "part_failed"}


def speaks_to_people(settings: Settings) -> bool:
    """Whether somebody sits in front of stderr, or shall be taken for it."""
    return settings.log == "console" or (settings.log == "auto" and sys.stderr.isatty())


class Voice:
    """name: stands in front of its sentences, and in its events as `part`."""

    def __init__(self, out: Output, settings: Settings, logger: str, name: str = "") -> None:
        self.to_people = speaks_to_people(settings)
        self._out, self._log = out, structlog.get_logger(logger)
        self._name, self._part = name, {"part": name} if name else {}

    def __call__(self, event: str, sentence: str, **fields: object) -> None:
        if self.to_people:
            self._out.say(f"{self._name:<9} {sentence}" if self._name else sentence)
        elif event in _TROUBLE:
            self._log.warning(event, **self._part, **fields)
        else:
            self._log.info(event, **self._part, **fields)
