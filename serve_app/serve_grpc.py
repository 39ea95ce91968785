"""Calls between deployments, which Ray Serve makes by gRPC: what it leaves open.

Ray Serve 2.60 gives every replica a gRPC port for these calls and binds it on all interfaces
(``"[::]:0"`` in ``ray/serve/_private/replica.py``, ``_on_initialized``). The port requires no
credentials and unpickles what it receives, so anyone who can reach it can run code. A node whose
address in Ray is loopback has no peers, so its port is bound on loopback. On a cluster, the nodes'
network must be private; the docs say so.

Ray's own channels use no proxy (``grpc.enable_http_proxy``). Serve's do
(``ray/serve/_private/request_router/replica_wrapper.py``): where ``http_proxy`` was set, no replica
reached the ingress.
"""

from __future__ import annotations

import functools
import os
from collections.abc import MutableMapping
from typing import Any

import ray
from ray.serve._private import replica as serve_replica

LOOPBACK = "127.0.0.1"
_ALL_ADDRESSES = "0.0.0.0/0,::/0"  # replicas are called by their addresses, never by names


def prepare_calls() -> None:
    """Set up this process. Call it in a deployment's constructor, before Serve binds the port."""
    _keep_to_loopback()
    bypass_proxies(os.environ)  # noqa: TID251 of gRPC, not settings


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Let gRPC connect to addresses directly, and to names as ``no_proxy`` says.

    A value of ``no_grpc_proxy`` that the user has set is kept. gRPC reads the variables of its
    process for each channel.
    """
    names = environment.get("no_proxy", "")
    environment.setdefault("no_grpc_proxy", f"{names},{_ALL_ADDRESSES}".lstrip(","))


def _keep_to_loopback() -> None:
    """Does nothing on a node that other machines can reach, or when called again."""
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
