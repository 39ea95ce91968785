"""Patch that binds the gRPC port of Serve replicas to loopback on a single machine.

Ray Serve 2.60 gives every replica a gRPC port for calls between deployments and binds it on all
interfaces (``"[::]:0"`` in ``ray/serve/_private/replica.py``, ``_on_initialized``). The port
requires no credentials and unpickles what it receives, so anyone who can reach it can run code. A
node whose address in Ray is loopback has no peers, so its port is bound on loopback. On a cluster,
the nodes' network must be private; the docs say so.
"""

from __future__ import annotations

import functools
from typing import Any

import ray
from ray.serve._private import replica as serve_replica

LOOPBACK = "127.0.0.1"


def keep_to_loopback() -> None:
    """Install the patch. Call it in a deployment's constructor, before Serve binds the port.

    Does nothing on a node that other machines can reach, or when called again.
    """
    bind = serve_replica.add_port_to_grpc_server
    if isinstance(bind, functools.partial) or ray.util.get_node_ip_address() != LOOPBACK:
        return
    serve_replica.add_port_to_grpc_server = functools.partial(_bind, bind)


def _bind(bind: Any, server: Any, address: str) -> int:
    return int(bind(server, address.replace("[::]", LOOPBACK)))


def reachable_address() -> str:
    """Address of this node for other nodes; empty if they cannot reach it. Asking Ray blocks."""
    host = ray.util.get_node_ip_address()
    return "" if host == LOOPBACK else host
