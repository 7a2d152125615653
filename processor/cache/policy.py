"""What a cached function was declared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from processor.core.errors import BadInput

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How long results are kept, and by whom they are computed. Raises BadInput."""

    ttl_seconds: float
    negative_seconds: float
    negative: Sequence[type[Exception]]
    jitter: float
    early: float
    max_kib: int
    claim_seconds: float

    def __post_init__(self) -> None:
        for name, low, high in (
            ("ttl_seconds", 0.001, 366 * 86400),
            ("negative_seconds", 0, 366 * 86400),
            ("jitter", 0, 0.9),
            ("early", 0, 100),
            ("max_kib", 1, 65536),
            ("claim_seconds", 0.1, 3600),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise BadInput(
                    f"{name} is {value!r}; it is a number from {low} to {high:,}.", field=name, value=str(value)
                )
        if not isinstance(self.negative, (tuple, list)):
            raise BadInput(
                f"negative is {self.negative!r}; give a tuple of exceptions: negative=(NotFound,).", field="negative"
            )
        for kind in self.negative:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise BadInput(f"negative holds {kind!r}, which is no type of exception.", field="negative")

    def ttl_ms(self, draw: float, *, negative: bool = False) -> int:
        """How long a result is kept: never longer than was said, and up to `jitter` of it shorter, so that what was
        computed together does not end together. draw: in [0, 1). 0: it is not kept."""
        seconds = min(self.negative_seconds, self.ttl_seconds) if negative else self.ttl_seconds
        return round(1000 * seconds * (1 - self.jitter * draw))

    def stretch(self, draw: float) -> float:
        """How many times the duration of its computation before its end a value counts as due for this reader, so that one
        of many computes it anew while the others still have it. draw: in [0, 1).

        Source: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015 (XFetch).
        """
        return -self.early * math.log(1 - draw)

    @property
    def term_ms(self) -> int:
        return round(1000 * self.claim_seconds)
