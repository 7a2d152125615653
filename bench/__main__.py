"""`python -m bench append|feed [--json FILE] [--aof everysec|always|off] [--quick]`: exit code 1 if a target is missed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import append, feed

BENCHES = {"append": append.bench, "feed": feed.bench}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measurements against a floor in the same run."
    )
    parser.add_argument("bench", choices=sorted(BENCHES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--aof", choices=["everysec", "always", "off"], default="everysec", help="of the server")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures say little")
    parser.add_argument("--only", metavar="PART", help="a part of feed: cpu, sustained, latency, memory")
    options = parser.parse_args()
    report = BENCHES[options.bench](aof=options.aof, quick=options.quick, only=options.only)
    return report.finish(options.json)


if __name__ == "__main__":
    sys.exit(main())
