"""A task's result: what a handle of its run gives is what the function's annotation says, not the JSON that was stored."""

from __future__ import annotations

import typing
from typing import Any

from processor.client.annotations import Annotations
from processor.client.hints import data_adapter, plain_check, words
from processor.core.errors import BadInput
from processor.core.json import dumps

__all__ = ["Results"]


class Results:
    """Of one function."""

    def __init__(self, task: str, annotations: Annotations) -> None:
        self._task, self._annotations = task, annotations
        self._hint: Any = None
        self._adapter: Any = None
        self._is_known = False

    def parse(self, value: object, run: str) -> Any:
        """A result as JSON has it, as the type that the function returns. Raises BadInput.

        As it is where the annotation is a builtin, is missing, is known to type checkers only, or is no type of data.
        """
        if not self._is_known:
            self._learn()
        if self._adapter is None:
            return value
        try:
            return self._adapter.validate_json(dumps(value), by_alias=True, by_name=True)
        except ValueError as error:  # pydantic's ValidationError is one
            raise BadInput(
                f"the result of run {run} is no {words(self._hint)}, which task {self._task} returns: {error}",
                remedy=f'Read it as it is: await tail.run("{run}").result()',
                field="result",
                value=repr(value)[:200],
            ) from error

    def _learn(self) -> None:
        self._is_known = True
        try:
            self._hint = self._annotations.of(["return"]).get("return", Any)
        except NameError:
            return
        if plain_check(self._hint) is None and not isinstance(self._hint, typing.TypeVar):
            self._adapter = data_adapter(self._hint)
