"""What is cached, as bytes: a value in JSON, an exception that is an answer, or that there is nothing to keep."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from typing import Any, Final

from processor.client.annotations import Annotations
from processor.client.hints import data_adapter, plain_check
from processor.core.errors import BadEvent
from processor.core.json import dumps, loads

__all__ = ["NOT_KEPT", "Codec"]

NOT_KEPT: Final = b"u"  # in place of a value that is no JSON, or too large: everybody computes it by himself
_VALUE: Final = b"v"
_ERROR: Final = b"e"


class Codec:
    """Of one function. A result whose annotation takes pydantic becomes what it says; of others JSON comes back."""

    def __init__(self, annotations: Annotations, negative: Sequence[type[Exception]]) -> None:
        self._annotations, self._negative = annotations, tuple(negative)
        self._adapter: Any = None
        self._is_known = False

    def encode(self, value: object) -> bytes:
        """Raises BadEvent for what is no JSON."""
        adapter = self._learned()
        if adapter is None:
            return _VALUE + dumps(value)
        try:
            # By names, and without what is computed: what is read again must be what was written.
            encoded: bytes = adapter.dump_json(value, by_alias=False, round_trip=True, warnings="error")
        except ValueError as error:
            raise BadEvent(f"it does not fit its annotation: {error}") from error
        return _VALUE + encoded

    def encode_error(self, error: Exception) -> bytes | None:
        """None for an exception that is no answer, or that has no JSON."""
        for index, kind in enumerate(self._negative):
            if isinstance(error, kind):
                try:
                    return _ERROR + dumps([index, list(error.args)])
                except BadEvent:
                    return _ERROR + dumps([index, [str(error)]])
        return None

    def decode(self, frame: bytes) -> Any:
        """The value; raises the exception that was cached, ValueError for what another release wrote."""
        if frame[:1] == _ERROR:
            raise self.decode_error(frame)
        adapter = self._learned()
        body = frame[1:]
        return loads(body) if adapter is None else adapter.validate_json(body, by_alias=True, by_name=True)

    def decode_error(self, frame: bytes) -> Exception:
        """Raises ValueError for what another release wrote."""
        index, args = loads(frame[1:])
        if not 0 <= index < len(self._negative):
            raise ValueError("it is an exception that this function does not cache")
        kind = self._negative[index]
        try:
            error: Exception = kind(*args)
        except TypeError:  # made of something else than its args
            error = kind.__new__(kind, *args)
            error.args = tuple(args)
        return error

    @staticmethod
    def is_error(frame: bytes) -> bool:
        return frame[:1] == _ERROR

    def _learned(self) -> Any:
        """pydantic's adapter of the annotation; None where it takes none. Looked at when first needed: types may be defined
        below the function."""
        if not self._is_known:
            self._is_known = True
            try:
                hint = self._annotations.of(["return"]).get("return", Any)
            except NameError:
                return None
            if plain_check(hint) is None and not isinstance(hint, typing.TypeVar):
                self._adapter = data_adapter(hint)
        return self._adapter
