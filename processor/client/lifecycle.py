"""A plain producer's own lifecycle events: what of their data the script must be told beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from processor.core.errors import BadEvent
from processor.core.events import Draft, draft
from processor.core.json import dumps, loads
from processor.core.names import check_name, is_text
from processor.core.start import start_hash

__all__ = ["check_ask", "is_lifecycle", "lifecycle_draft"]

_LIFECYCLE: Final = re.compile(
    r"run\.(queued|started|waiting|resumed|retrying|finished|failed|cancel_requested|cancelled)"
)


def is_lifecycle(type: str) -> bool:
    return _LIFECYCLE.fullmatch(type) is not None


def lifecycle_draft(type: str, data: object, labels: Mapping[str, str] | None, traceparent: str | None) -> Draft:
    """Raises BadEvent, BadName."""
    encoded = dumps(data)
    members = loads(encoded) if data is not None else {}
    members = members if isinstance(members, dict) else {}
    task, ask = str(members.get("task") or ""), str(members.get("ask") or "")
    if task or type == "run.queued":  # it waits in that task's stream
        check_name(task, "task", field="data.task")
    check_ask(ask, "data.ask")
    return draft(
        type,
        encoded,
        labels=labels,
        traceparent=traceparent,
        task=task,
        start=start_hash(task, members.get("input") or {}) if type in ("run.queued", "run.started") else "",
        ask=ask,
        value=dumps(members.get("value")),
        error=dumps(members.get("error") or ""),
    )


def check_ask(ask: str, field: str) -> None:
    """Raises BadEvent: what has no bytes cannot be sent."""
    if not is_text(ask):
        raise BadEvent(
            f"{field} is {ask[:100]!r}, which has half a surrogate pair.",
            remedy="Give whole characters.",
            field=field,
            value=ask,
        )
