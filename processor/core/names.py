"""Names of namespaces, runs, producers, tasks, event types and labels: what is allowed, and what is said if not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from processor.core.errors import BadEvent, BadName

__all__ = ["check_labels", "check_name", "check_namespace", "check_producer", "check_run", "check_type", "is_text"]

_PART = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_NAMESPACE = re.compile(r"[a-z0-9][a-z0-9-]{0,40}", re.ASCII)
_PRODUCER = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9._-]{1,62}", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PART_CHARS = re.compile(r"[A-Za-z0-9._:-]", re.ASCII)
MAX_LABELS, MAX_LABEL_BYTES, MAX_TYPE = 32, 64, 128


def _ordinal(n: int) -> str:
    suffix = "th" if 10 <= n % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def _bad_part(what: str, name: str, field: str) -> BadName:
    strange = [f'"{c}" ({_ordinal(i)} character)' for i, c in enumerate(name, 1) if not _PART_CHARS.match(c)]
    if strange:
        listed = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        listed = " and ".join(listed.rsplit(", ", 1))
        message = f'{what} "{name[:200]}" has {listed}. Allowed: 1 to 64 of A-Z a-z 0-9 . _ : -'
        perhaps = re.sub(r"[^A-Za-z0-9._:-]", "-", name.replace("/", ":"), flags=re.ASCII).strip("-:")[:64]
        if what == "run ID" and perhaps:
            return BadName(
                message,
                remedy=f'Perhaps "{perhaps}". Free text belongs in a label: options(labels={{"ticket": "{name[:60]}"}})',
                field=field,
                value=name,
            )
    elif name in (".", ".."):
        message = f'{what} "{name}" cannot be told from a folder in a URL. Allowed: 1 to 64 of A-Z a-z 0-9 . _ : -'
    else:
        message = f'{what} "{name[:200]}" has {len(name)} characters. Allowed: 1 to 64 of A-Z a-z 0-9 . _ : -'
    return BadName(message, remedy="Choose a name of the allowed characters.", field=field, value=name)


def check_name(name: str, what: str, *, field: str | None = None) -> str:
    """A task, group, thread or schedule: as one part of a run ID. Raises BadName."""
    if not isinstance(name, str) or not _PART.fullmatch(name) or name in (".", ".."):
        raise _bad_part(what, str(name), field or what)
    return name


def check_run(run: str, *, field: str = "run") -> str:
    """`root` or `root~name`. Raises BadName."""
    parts = run.split("~", 1) if isinstance(run, str) else [str(run)]
    for part in parts:
        if not _PART.fullmatch(part) or part in (".", ".."):
            raise _bad_part("run ID", run if len(parts) == 1 else part, field)
    return run


def check_namespace(namespace: str) -> str:
    """Raises BadName. A `:` would let the ACL of one namespace match another."""
    if not _NAMESPACE.fullmatch(namespace):
        raise BadName(
            f'namespace "{namespace[:200]}" is not allowed. Allowed: 1 to 41 of a-z 0-9 -, not beginning with -',
            remedy="Choose a name such as staging or team-a.",
            field="namespace",
            value=namespace,
        )
    return namespace


def check_producer(producer: str, *, field: str = "Tailrace-Producer") -> str:
    """Raises BadName."""
    if not _PRODUCER.fullmatch(producer):
        raise BadName(
            f'producer "{producer[:200]}" is not allowed. Allowed: 1 to 128 of A-Z a-z 0-9 . _ : -',
            remedy="Choose a random name for each process, for example a UUID.",
            field=field,
            value=producer,
        )
    return producer


def check_type(type: str, *, field: str = "type") -> str:
    """Dotted words; `tailrace.` is ours. Raises BadEvent."""
    if not isinstance(type, str) or len(type) > MAX_TYPE or not _TYPE.fullmatch(type):
        raise BadEvent(
            f"{field} is {str(type)[:200]!r}, which is no event type.",
            remedy="Give dotted words of A-Z a-z 0-9 _ -, at most 128 characters, such as order.paid.",
            field=field,
            value=str(type),
        )
    if type.startswith("tailrace."):
        raise BadEvent(
            f"{field} is {type!r}; types that begin with tailrace. are told by the gateway and never stored.",
            remedy="Choose another first word.",
            field=field,
            value=type,
        )
    return type


def is_text(value: object) -> bool:
    """Whether it is a string that can be a field of the server's: half a surrogate pair has no bytes."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def check_labels(labels: Mapping[str, str], *, field: str = "labels") -> Mapping[str, str]:
    """At most 32, values of whole characters and at most 64 bytes each. Raises BadEvent."""
    if len(labels) > MAX_LABELS:
        raise BadEvent(
            f"{field} has {len(labels)} members; at most {MAX_LABELS} are allowed.",
            remedy="Put the rest into data.",
            field=field,
            value=None,
        )
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise BadEvent(
                f"{field} has the name {str(name)[:100]!r}. Allowed: 1 to 62 of A-Z a-z 0-9 . _ -",
                remedy="Rename the label.",
                field=field,
                value=str(name),
            )
        if not is_text(value) or len(value.encode()) > MAX_LABEL_BYTES:
            raise BadEvent(
                f"{field}.{name} is {repr(value)[:100]}; a label is a string of at most {MAX_LABEL_BYTES} bytes, "
                "without half a surrogate pair.",
                remedy="Shorten it, or put the value into data.",
                field=f"{field}.{name}",
                value=str(value),
            )
    return labels
