"""Ports for servers that Darkroom starts: none that the kernel gives to a client meanwhile."""

from __future__ import annotations

import contextlib
import random
import socket

from serve_app.domain.errors import Misconfigured

PORTS = range(20_000, 30_000)


def free_port(host: str = "") -> int:
    """Return a port of ``host``, or of any interface, on which nothing listens now."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "") -> list[int]:
    """Return ``count`` different free ports of ``host``, or of any interface.

    They lie below the kernel's range of ephemeral ports, because any client, such as one of Ray's
    many processes, could otherwise get such a port before it is used. They also lie outside the
    range that Ray chooses from. They are chosen at random, so that two processes rarely choose the
    same. Raises ``Misconfigured`` if there are not enough.
    """
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                listener.bind((host, port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise Misconfigured(
        f"Fewer than {count} ports are free from {PORTS.start} to {PORTS.stop - 1}. Stop programs "
        "that listen there."
    )
