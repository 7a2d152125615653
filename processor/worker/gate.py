"""Placeholder until LIMITS+DEAD's Gate is here (overwrite me): lets everything pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from processor.store.executing import Taken


class Gate:
    guards_any = False

    def __init__(self, session: Any, tasks: Mapping[str, Any]) -> None:
        del session, tasks

    async def ask(self, wanted: Sequence[tuple[Taken, Any]]) -> list[int]:
        return [0] * len(wanted)

    def left(self, run: str) -> None:
        del run

    async def renew(self) -> None:
        return
