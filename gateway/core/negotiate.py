"""Which form of a feed a request asks for, by its Accept header."""

from __future__ import annotations

import re
from enum import Enum

__all__ = ["Form", "choose"]

_RANGE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)")
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", re.ASCII)


class Form(Enum):
    """The forms in which a feed can be read; of equal wishes the first one is served."""

    SSE = "text/event-stream"
    JSON = "application/json"
    NDJSON = "application/x-ndjson"


def choose(accept: str | None) -> Form | None:
    """The form to answer in; None if none fits (406).

    accept: the header, several joined by commas; None or empty if it did not come.
    Each form takes the weight of the most specific range that covers it. Of the heaviest, those that are named (or
    whose main type is) go before those that only `*/*` covers: axios and jQuery append it to what they mean. What only
    `*/*` asks for is JSON. Ranges that cannot be read are passed over.
    """
    if accept is None or not accept.strip():
        return Form.JSON
    weights: dict[Form, tuple[int, float]] = {}
    for part in accept.split(","):
        parsed = _range(part)
        if parsed is None:
            continue
        main, sub, weight = parsed
        for form in Form:
            closeness = _closeness(form, main, sub)
            if closeness > weights.get(form, (0, 0.0))[0]:
                weights[form] = (closeness, weight)
    best = max((weight for _, weight in weights.values()), default=0.0)
    if best == 0.0:
        return None
    heaviest = [form for form in Form if form in weights and weights[form][1] == best]
    named = [form for form in heaviest if weights[form][0] > 1]
    if not named and Form.JSON in heaviest:
        return Form.JSON
    return (named or heaviest)[0]


def _range(part: str) -> tuple[str, str, float] | None:
    """`main/sub;…;q=…` as (main, sub, weight) in lower case; None if it is not one."""
    media, *parameters = part.split(";")
    match = _RANGE.fullmatch(media.strip())
    if match is None:
        return None
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            if not _WEIGHT.fullmatch(value.strip()):
                return None
            weight = float(value)
            break  # what follows q would be an extension of Accept, not of the range
    return match[1].lower(), match[2].lower(), weight


def _closeness(form: Form, main: str, sub: str) -> int:
    """3 for the form itself, 2 for its main type, 1 for `*/*`, 0 if the range does not cover it."""
    form_main, _, form_sub = form.value.partition("/")
    if main == form_main:
        return 3 if sub == form_sub else 2 if sub == "*" else 0
    return 1 if main == sub == "*" else 0
