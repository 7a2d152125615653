"""Batch handlers against FastStream's batch mode of a Redis stream: 200 entries a handler, acknowledged together.

Twice: with one output for each event (tailrace settles them with the acknowledgement, FastStream publishes them in one pipeline and
acknowledges after that), and as no-ops. FastStream's clock goes from the first line of the first handler to the last line of the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.process.drain import in_turn, ratios
from bench.process.oracle import Drained
from bench.process.peers import Peer
from bench.react.drain import FEW_RUNS, Shape, drain_reactions, row
from bench.report import Report
from bench.server import Served, served_by_tcp
from processor.store.embedded import Aof

__all__ = ["PEER", "measure_batch"]

PEER: Final = "faststream"
OF_PEER: Final = 1.3
SHAPES: Final = {
    "few": Shape(f"batches with outputs, events of {FEW_RUNS} runs", "batch", FEW_RUNS),
    "own": Shape("batches with outputs, a run an event", "batch", 0),
    "few, nothing": Shape(f"batches without outputs, events of {FEW_RUNS} runs", "batch_nothing", FEW_RUNS),
}
JUDGED: Final = {"few": "batches", "few, nothing": "batches_without_outputs"}  # that one writes to a single stream
AGAINST: Final = {"few": "outputs", "own": "outputs", "few, nothing": "nothing"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each drains in a round."""

    events: int = 60_000
    peer: int = 40_000
    rounds: int = 5


QUICK: Final = Sizes(1_000, 1_000, 2)


def measure_batch(report: Report, aof: Aof, *, quick: bool, peers: Sequence[str], cache: Path) -> None:
    """peers: with PEER in it the targets are judged."""
    sizes = QUICK if quick else Sizes()
    drains: dict[str, Callable[[Served], Drained]] = {}
    for name, shape in SHAPES.items():
        outputs = 0 if "nothing" in name else 1
        drains[name] = functools.partial(drain_reactions, shape=shape, events=sizes.events, outputs=outputs)
    if PEER in peers:
        peer = Peer(PEER, cache)
        peer.install()
        drains |= {what: _drain_of(peer, sizes.peer, what) for what in ("outputs", "nothing")}
    drained = in_turn(drains, lambda: served_by_tcp(aof), sizes.rounds)
    for name, shape in SHAPES.items():
        against = drained.get(AGAINST[name], ())
        row(report, f"batch, {name}", shape.title, drained[name], against, f"of {PEER}")
        if name not in JUDGED:
            continue
        target = f"react.{JUDGED[name]}_of_{PEER}"
        if against:
            report.judge(target, ratios(drained[name], against), "at least", OF_PEER)
        else:
            report.skip(target, f"--peers {PEER} runs it", "at least", OF_PEER)
    for what in sorted(set(AGAINST.values()) & set(drained)):
        title = f"{peer.title}, batches {'with outputs' if what == 'outputs' else 'without'}"
        row(report, f"batch, {PEER}, {what}", title, drained[what])


def _drain_of(peer: Peer, events: int, what: str) -> Callable[[Served], Drained]:
    flags = ("--outputs",) if what == "outputs" else ()
    return lambda server: peer.drain(server.url, events, *flags, program="faststream_batch")
