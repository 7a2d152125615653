"""Whether a parameter may be the run, by what is written at it."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

from processor.client.annotations import Annotations
from processor.client.hints import plain_check

__all__ = ["may_be_run"]


def may_be_run(annotations: Annotations, parameter: inspect.Parameter) -> bool:
    """False for a type of data and for a class that is no Run; what cannot be told may be one. annotations: the function's."""
    written = parameter.annotation
    if written is parameter.empty or "Run" in str(written):
        return True
    try:
        hint = annotations.of([parameter.name]).get(parameter.name, Any)
    except (NameError, AttributeError, TypeError, SyntaxError):  # defined below, or for type checkers only
        return True
    if "Run" in str(hint):
        return True
    check = plain_check(hint)
    if check is not None:
        return check(object())  # of these only Any and object take what is no data
    return not isinstance(hint, type) or any("Run" in base.__name__ or base is Protocol for base in hint.__mro__)
