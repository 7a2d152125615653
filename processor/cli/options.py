"""Options that every command takes, before or after its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from processor.core.settings import Settings
from processor.core.version import own_version

__all__ = ["EPILOG", "Options", "hoist", "options_of", "own_version"]

_FLAGS = {"--json", "--no-color", "--quiet", "-q", "--verbose", "-v", "--yes", "-y"}
_VALUED = {"--namespace", "--redis-url"}
EPILOG = "Also --namespace --redis-url --json --no-color -q -v --yes, as in `tailrace --help`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What stood before or behind the command's name."""

    namespace: str | None = None
    redis_url: str | None = None
    json: bool = False
    color: bool = True
    quiet: bool = False
    verbose: bool = False
    yes: bool = False

    def settings(self) -> Settings:
        """Environment, `.tailrace/` of this folder or above, then these flags. Raises SettingsError."""
        settings = Settings.from_env(os.environ, folder=Path.cwd())
        if self.redis_url is not None:
            settings = settings.changed("--redis-url", redis_url=self.redis_url)
        if self.namespace is not None:
            settings = settings.changed("--namespace", namespace=self.namespace)
        return settings


def options_of(ctx: typer.Context) -> Options:
    found = ctx.find_object(Options)
    assert found is not None  # the root callback puts it there before any command runs
    return found


def hoist(argv: Sequence[str]) -> list[str]:
    """argv with these options moved before the command, where the parser knows them.

    What belongs to somebody else stays: behind `--`, and behind the first word of the program that `exec` is to run.
    """
    front: list[str] = []
    rest: list[str] = []
    command = ""
    position = 0
    while position < len(argv):
        word = argv[position]
        if word == "--" or (command == "exec" and not word.startswith("-") and rest[-1] != "--run"):
            rest += argv[position:]
            break
        if word in _FLAGS or (word.partition("=")[0] in _VALUED and "=" in word):
            front.append(word)
        elif word in _VALUED:
            front += argv[position : position + 2]
            position += 1
        else:
            command = command or ("" if word.startswith("-") else word)
            rest.append(word)
        position += 1
    return front + rest
