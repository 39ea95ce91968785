"""Keeps the port of a Serve replica off the network on a machine that is alone.

Ray Serve 2.60 gives every replica a gRPC port for calls between deployments, binds it on all
interfaces (``"[::]:0"`` in ``ray/serve/_private/replica.py``, ``_on_initialized``), asks for no
credential there and unpickles what arrives. Whoever reaches it runs code. A node that Ray knows as
loopback has no peers, so there the port is bound on loopback. On a cluster the nodes' network must
be private; the docs say so.
"""

from __future__ import annotations

import functools
from typing import Any

import ray
from ray.serve._private import replica as serve_replica

LOOPBACK = "127.0.0.1"


def keep_to_loopback() -> None:
    """Call in a deployment's constructor: Serve binds the port after that. Does nothing on a node
    that others can reach, or when called again."""
    bind = serve_replica.add_port_to_grpc_server
    if isinstance(bind, functools.partial) or ray.util.get_node_ip_address() != LOOPBACK:
        return
    serve_replica.add_port_to_grpc_server = functools.partial(_bind, bind)


def _bind(bind: Any, server: Any, address: str) -> int:
    return int(bind(server, address.replace("[::]", LOOPBACK)))
