"""What a bench found: a table for people, JSON for machines, one line and a verdict for each target."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

__all__ = ["Report", "Target"]

Bound = Literal["at least", "at most"]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that is judged. samples: what it is the median of, empty for a figure of its own. value None: not measured."""

    name: str
    value: float | None
    bound: Bound
    limit: float
    unit: str = ""
    samples: Sequence[float] = ()
    skipped: str = ""  # why it was not measured

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.limit if self.bound == "at least" else self.value <= self.limit

    @property
    def verdict(self) -> str:
        return "skipped" if self.skipped else "met" if self.met else "missed"

    def line(self) -> str:
        target = f"target={'>=' if self.bound == 'at least' else '<='}{_digits(self.limit)}{self.unit}"
        if self.value is None:
            return f"{self.name} figure=- ({self.skipped}) {target} {self.verdict}"
        spread = f" rounds={_digits(min(self.samples))}..{_digits(max(self.samples))}" if len(self.samples) > 1 else ""
        return f"{self.name} figure={_digits(self.value)}{self.unit}{spread} {target} {self.verdict}"


@dataclass(slots=True)
class Report:
    """Collects as it goes; `finish` prints the rest."""

    name: str
    facts: dict[str, str]  # what the figures depend on
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)  # for the JSON
    targets: list[Target] = field(default_factory=list)

    @classmethod
    def begin(cls, name: str, **facts: str) -> Report:
        load = " ".join(f"{one:.1f}" for one in os.getloadavg())
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, load before {load}"
        report = cls(name, {"python": platform.python_version(), "machine": machine, **facts})
        print(f"bench {name}: " + ", ".join(f"{key} {value}" for key, value in report.facts.items()), flush=True)
        return report

    def row(self, what: str, value: str, note: str = "", *, key: str | None = None, figure: object = None) -> None:
        """One line of the table; key and figure: the same for machines."""
        self.rows.append((what, value, note))
        if key is not None:
            self.figures[key] = figure

    def judge(self, name: str, samples: Sequence[float], bound: Bound, limit: float, unit: str = "") -> None:
        """The median of the samples against its target."""
        self.targets.append(Target(name, statistics.median(samples), bound, limit, unit, tuple(samples)))

    def skip(self, name: str, why: str, bound: Bound, limit: float, unit: str = "") -> None:
        """A target that cannot be measured here. It is shown and not judged."""
        self.targets.append(Target(name, None, bound, limit, unit, skipped=why))

    def finish(self, path: Path | None) -> int:
        """Prints table and verdicts, writes the JSON. Returns the exit code: 1 if a target was missed."""
        table = Table(title=f"bench {self.name}", show_lines=False)
        for head in ("what", "figure", "note"):
            table.add_column(head, justify="right" if head == "figure" else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        Console(width=None if os.isatty(1) else 140, markup=False, highlight=False).print(table)
        if path is not None:
            path.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        for target in self.targets:
            print(target.line(), flush=True)
        return 1 if any(target.verdict == "missed" for target in self.targets) else 0

    def as_json(self) -> Mapping[str, object]:
        return {
            "bench": self.name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "facts": self.facts,
            "figures": self.figures,
            "targets": [
                {
                    "name": target.name,
                    "figure": target.value,
                    "rounds": list(target.samples),
                    "bound": target.bound,
                    "target": target.limit,
                    "unit": target.unit,
                    "verdict": target.verdict,
                    "skipped": target.skipped,
                }
                for target in self.targets
            ],
        }


def _digits(value: float) -> str:
    """Three digits that say something."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".")
