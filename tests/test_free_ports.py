"""Ports for servers that Darkroom starts."""

from __future__ import annotations

import socket

import pytest

from serve_app import free_ports
from serve_app.domain.errors import Misconfigured


def test_free_ports_are_different_and_not_those_that_the_kernel_gives_to_anybody() -> None:
    ports = free_ports.free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768  # start of Linux's range of ephemeral ports


def test_a_taken_port_is_not_given_out_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(free_ports, "PORTS", range(port, port + 1))
        with pytest.raises(Misconfigured, match="ports are free"):
            free_ports.free_port()
