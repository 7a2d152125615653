from __future__ import annotations

import pytest

from processor.cli.options import hoist


@pytest.mark.parametrize(
    ("argv", "hoisted"),
    [
        ("runs --json", "--json runs"),
        ("runs --namespace a --limit 3 -v", "--namespace a -v runs --limit 3"),
        ("runs --namespace=a --redis-url=redis://h", "--namespace=a --redis-url=redis://h runs"),
        ("--json runs", "--json runs"),
        ("tail r --type x -q", "-q tail r --type x"),
        ("exec -q -- echo --json", "-q exec -- echo --json"),
        ("exec --run r --json echo --json -v", "--json exec --run r echo --json -v"),
        ("exec echo -q", "exec echo -q"),
        ("emit r -", "emit r -"),
        ("emit r a.b -- --json", "emit r a.b -- --json"),
        ("runs --namespace", "--namespace runs"),
        ("", ""),
    ],
)
def test_hoist(argv: str, hoisted: str) -> None:
    """Options of every command are found before and behind its name; what belongs to another program is left alone."""
    assert " ".join(hoist(argv.split())) == hoisted
