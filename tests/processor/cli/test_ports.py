from __future__ import annotations

import os
import socket

import pytest

from processor.cli.exits import PortTaken
from processor.cli.ports import holder_of, http_url, listen, listen_from, port_of
from processor.core.errors import SettingsError


def test_the_holder_of_a_port() -> None:
    """Who listens is found with command and start; nobody's port has none."""
    with listen("127.0.0.1", 0, "tailrace up") as listener:
        port = listener.getsockname()[1]
        holder = holder_of(port)
        assert holder is not None
        assert holder.pid == os.getpid()
        assert not holder.ours
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port} is in use by process {os.getpid()}") as caught:
            listen("127.0.0.1", port, "tailrace up")
        assert caught.value.remedy == f"Stop it, or choose another port: tailrace up --port {port + 1}"
    assert holder_of(port) is None


def test_a_holder_that_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not say who it is, the rest is said."""
    monkeypatch.setattr("processor.cli.ports.holder_of", lambda port: None)
    with listen("127.0.0.1", 0, "x") as listener, pytest.raises(PortTaken, match=r"is in use\.\n") as caught:
        listen("127.0.0.1", listener.getsockname()[1], "tailrace up")
    assert "Stop what listens there" in str(caught.value.remedy)


def test_an_address_of_another_machine() -> None:
    """An address that is not ours is a wrong setting."""
    with pytest.raises(SettingsError, match="cannot be listened on"):
        listen("192.0.2.1", 0, "tailrace up")


def test_urls() -> None:
    """As one types them into a browser; a wildcard is reached by loopback."""
    assert [http_url(host, 1) for host in ("127.0.0.1", "0.0.0.0", "::", "::1", "example.com")] == [
        "http://127.0.0.1:1",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://[::1]:1",
        "http://example.com:1",
    ]


def test_ipv6() -> None:
    """An IPv6 address is listened on as such."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    try:
        with listen("::1", 0, "x") as listener:
            assert listener.family == socket.AF_INET6
    except SettingsError:
        pytest.skip("no IPv6 loopback on this machine")


def test_the_next_free_port() -> None:
    """A taken port is passed over; without limit it is not."""
    with listen("127.0.0.1", 0, "x") as first:
        taken = port_of(first)
        with listen_from("127.0.0.1", taken, "x") as second:
            assert taken < port_of(second) < taken + 20
