"""`python -m bench append|feed|process|react|ship [--json FILE] [--aof …] [--quick] …`: exit code 1 if a target is missed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench import append, feed, process, react, ship
from bench.process.peers import PEERS, chosen, default_cache
from bench.report import Report

PARTS: Final = {"append": (), "feed": feed.PARTS, "process": process.PARTS, "react": react.PARTS, "ship": ()}

PEERS_OF: Final = {"process": PEERS, "react": (react.PEER,)}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Ends the process with a message if something does not fit."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measurements against a floor in the same run."
    )
    parser.add_argument("bench", choices=sorted(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--aof", choices=["everysec", "always", "off"], default="everysec", help="of the server")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures say little")
    parts = "; ".join(f"of {bench}: {', '.join(parts)}" for bench, parts in PARTS.items() if parts)
    parser.add_argument("--only", metavar="PART", help=f"a part ({parts})")
    parser.add_argument(
        "--peers",
        metavar="NAMES",
        default="none",
        help=f"process: all, or some of {', '.join(PEERS)}; react: {react.PEER}; installs them into environments of their own",
    )
    parser.add_argument("--cache", type=Path, metavar="FOLDER", default=default_cache(), help="for these environments")
    parser.add_argument("--jemalloc", action="store_true", help="process: preload it into the servers of the drain")
    options = parser.parse_args(given)
    if options.only is not None and options.only not in PARTS[options.bench]:
        known = ", ".join(PARTS[options.bench]) or "none"
        parser.error(f"{options.bench} has no part {options.only!r}; it has: {known}")
    try:
        options.peers = chosen(options.peers, PEERS_OF.get(options.bench, ()))
    except ValueError as error:
        parser.error(f"--peers {error}")
    return options


def measured(options: argparse.Namespace) -> Report:
    if options.bench == "append":
        return append.bench(aof=options.aof, quick=options.quick)
    if options.bench == "ship":
        return ship.bench(aof=options.aof, quick=options.quick)
    if options.bench == "feed":
        return feed.bench(aof=options.aof, quick=options.quick, only=options.only)
    if options.bench == "react":
        return react.bench(
            aof=options.aof, quick=options.quick, only=options.only, peers=options.peers, cache=options.cache
        )
    return process.bench(
        aof=options.aof,
        quick=options.quick,
        only=options.only,
        peers=options.peers,
        cache=options.cache,
        jemalloc=options.jemalloc,
    )


def main() -> int:
    options = arguments()
    return measured(options).finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
