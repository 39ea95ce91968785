"""Where replicas reach the ingress over HTTP: they upload artifacts there."""

from __future__ import annotations

import ray
from ray.serve.context import _get_global_client  # what Serve itself uses in replicas

from serve_app.domain.errors import Misconfigured

EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 compared with, not bound


def internal_origin() -> str:
    """Serve's HTTP port on this node, by an address that the other nodes know."""
    client = _get_global_client()
    if client is None:
        raise Misconfigured("The ingress runs outside Ray Serve, so it has no address.")
    options = client.http_config
    host = options.host or ""
    if host in EVERYWHERE:
        host = ray.util.get_node_ip_address()
    return f"http://[{host}]:{options.port}" if ":" in host else f"http://{host}:{options.port}"
