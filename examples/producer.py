"""A producer that needs no library: agent runs, told over plain HTTP, one after the other until it is stopped.

    TAILRACE_API=http://127.0.0.1:8600/api/default python producer.py [--runs 3]

What to take from it: the two headers. Each body carries the number of its first event under the producer's name, so it
can be sent again and again until an answer comes: what the server has already is answered `duplicate` and not doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator

API = os.environ.get("TAILRACE_API", "http://127.0.0.1:8600/api/default")  # a mounted gateway: its address alone
TOKEN = os.environ.get("PRODUCER_TOKEN", "")
TEXT = "Every line of the order was checked against the stock. Two are short, so the rest ships today and those follow."
UNAVAILABLE = (429, 503)  # come back later; every other refusal would be the same again


def order(number: int) -> Iterator[list[dict[str, object]]]:
    """The events of one run, as the bodies in which they are sent."""
    yield [
        {
            "type": "run.started",
            "data": {"task": "check_order", "input": {"order": number}},
            "labels": {"shop": "demo"},
        },
        {"type": "step.started", "data": {"step": "stock", "name": "look up the stock"}},
        {"type": "tool.started", "data": {"tool": "t1", "name": "stock"}},
        {"type": "tool.ready", "data": {"tool": "t1", "args": {"order": number}}},
    ]
    yield [
        {"type": "tool.result", "data": {"tool": "t1", "value": {"lines": 12, "short": 2}}},
        {"type": "log", "data": {"level": "warning", "lines": [f"order {number}: 2 of 12 lines are short"]}},
        {"type": "step.finished", "data": {"step": "stock"}},
    ]
    for word in TEXT.split():
        yield [{"type": "message.delta", "data": {"text": word + " "}}]
    yield [{"type": "run.finished", "data": {"result": {"ships_today": 10}}}]


class Producer:
    """Sends one run's events under numbers, each body until the server has it."""

    def __init__(self, run: str) -> None:
        self.url = f"{API}/runs/{run}/events"
        self.name = uuid.uuid4().hex  # new for each process and run
        self.number = 1  # of the next event

    def send(self, events: list[dict[str, object]]) -> str:
        """Returns the feed ID of the last event. Raises HTTPError when the server refuses for good."""
        request = urllib.request.Request(
            self.url,
            data=json.dumps(events).encode(),
            headers={
                "Content-Type": "application/json",
                "Tailrace-Producer": self.name,
                "Tailrace-Number": str(self.number),
                **({"Authorization": f"Bearer {TOKEN}"} if TOKEN else {}),
            },
        )
        answer = self._until_answered(request)
        self.number += len(events)
        return str(answer["tail"])

    def _until_answered(self, request: urllib.request.Request) -> dict[str, object]:
        while True:
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    answer: dict[str, object] = json.load(response)
                    return answer
            except urllib.error.HTTPError as refusal:
                if refusal.code not in UNAVAILABLE:
                    raise
                wait = float(refusal.headers.get("Retry-After", 1))
            except OSError:  # no answer: it may have arrived or not, and the same numbers make both right
                wait = 1.0
            time.sleep(wait)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tells a gateway about one run after the other.")
    parser.add_argument("--runs", type=int, default=0, help="how many; 0 for no end")
    parser.add_argument("--pause", type=float, default=0.15, help="seconds between two bodies")
    options = parser.parse_args()
    number = 0
    while not options.runs or number < options.runs:
        number += 1
        run = f"order-{number}-{uuid.uuid4().hex[:8]}"
        producer = Producer(run)
        tail = ""
        for events in order(number):
            tail = producer.send(events)
            time.sleep(options.pause)
        print(f"{run} {tail}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except urllib.error.HTTPError as refusal:
        sys.exit(f"{refusal.code} {refusal.read().decode()}")
