"""References: a result that is named instead of copied.

A reference is JSON: `"~name"` is the result of the run `<root>~name`, where the root is that of whoever holds the reference,
so that nobody can name a run of somebody else's; a list is the list of what its members mean; an object,
`{"failed": reason, "run"?: "~name", "error"?}`, stands for a child that has no result. In `run.queued` the member
`references` has one for each parameter that is given a result; in `run.finished` the member `reference` stands in place of
a result that is too large for an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from processor.core.failure import short

__all__ = ["ChildFailed", "Reference", "failed_reference", "full_name", "is_reference", "names_in", "reference_to"]

Reference = Any
"""JSON, as above."""

_NAME: Final = re.compile(r"~[A-Za-z0-9._:-]{1,64}", re.ASCII)
_DEPTH: Final = 100  # of lists in lists


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """In place of a child's result, where its join goes on without it (`on_failure="continue"`)."""

    child: str  # its run, "" if there was none yet
    reason: str  # as run.failed has it; or "cancelled", "deadline", "expired"
    error: str  # in words


def reference_to(run: str) -> Reference:
    """Its result. run: `<root>~<name>`."""
    return "~" + run.partition("~")[2]


def failed_reference(failed: ChildFailed) -> Reference:
    """What became of a child, said here and now."""
    reference = {"failed": failed.reason}
    if failed.child:
        reference["run"] = reference_to(failed.child)
    if failed.error:
        reference["error"] = short(failed.error)
    return reference


def full_name(holder: str, name: str) -> str:
    """The run that `~name` means for a holder, itself a run."""
    return holder.partition("~")[0] + name


def is_reference(value: object, depth: int = 0) -> bool:
    """Whether it has the shape of one; anybody may have written it."""
    if isinstance(value, str):
        return _NAME.fullmatch(value) is not None
    if isinstance(value, list):
        return depth < _DEPTH and all(is_reference(one, depth + 1) for one in value)
    if not isinstance(value, dict) or not isinstance(value.get("failed"), str):
        return False
    run = value.get("run", "~x")
    return isinstance(run, str) and _NAME.fullmatch(run) is not None and isinstance(value.get("error", ""), str)


def names_in(reference: Reference) -> Iterator[str]:
    """The `~name` of each run whose end must be read."""
    if isinstance(reference, str):
        yield reference
    elif isinstance(reference, list):
        for one in reference:
            yield from names_in(one)
