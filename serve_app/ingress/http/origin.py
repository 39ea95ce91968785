"""URLs and ETags in responses: the base URL, and the URL and ETag of a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal
from urllib.parse import quote

import ray
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import Misconfigured, UntrustedHost
from serve_app.ingress.http.client_address import parse_address, within
from serve_app.ingress.http.hosts import is_fal, parent_of
from serve_app.ingress.services.services import services_of

SCHEME = "x-darkroom-scheme"
"""Header set by our own TLS port, which forwards to us over plain HTTP. A client that sets it
itself only changes the scheme of the URLs that it gets."""

LOOPBACK = ("127.0.0.1", "localhost")

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")


def origin_of(request: HttpRequest) -> str:
    """Configured public URL, or the host that this client used to reach us; no final slash.

    ``UntrustedHost``: the host is not one of ours. Anyone can write any host into a call, and it
    must not get into responses.
    """
    config = services_of(request).config
    if config.server.public_url:
        return config.server.public_url.rstrip("/")
    host = host_of(request)
    fals, by_tls = is_fal(host.partition(":")[0]), request.headers.get(SCHEME) == "https"
    if fals and by_tls and config.server.host in LOOPBACK:
        # Only this machine can reach us, and fal's names lead to us in prepared shells only. A URL
        # for a browser must have our own name.
        return f"http://{config.server.host}:{config.server.port}"
    secure = fals or by_tls  # fal's clients always use https
    scheme = "https" if secure else _forwarded_scheme(request, config.server.trusted_proxies)
    # `request.url` would build and parse a whole URL
    return f"{scheme}://{host}{request.scope.get('root_path', '')}"


def _forwarded_scheme(
    request: HttpRequest, trusted: Sequence[IPv4Network | IPv6Network]
) -> Literal["http", "https"]:
    """Scheme by ``X-Forwarded-Proto`` of a ``trusted`` proxy, else http, which is all we speak.

    The scheme of the ASGI scope is not used: uvicorn sets it by the same header of any client on
    loopback, where HAProxy is. HAProxy itself removes the header of others; see
    ``serve_app/cli/serve/haproxy.py``.
    """
    if not trusted or request.client is None:
        return "http"
    peer = parse_address(request.client.host)
    if peer is None or not (peer.is_loopback or within(peer, trusted)):
        return "http"
    return "https" if request.headers.get("x-forwarded-proto", "").lower() == "https" else "http"


def host_of(request: HttpRequest) -> str:
    """Host, with port, that this client used to reach us.

    It is a name of ours, one of fal's names that lead to us, or a service below a name of ours.
    ``UntrustedHost`` for any other.
    """
    services = services_of(request)
    host = (
        request.headers.get("host")
        or f"{services.config.server.host}:{services.config.server.port}"
    )
    if not _is_known(host, services.host_names):
        raise UntrustedHost(
            f"This Darkroom does not trust the host name {host[:100]!r}, so it cannot build URLs "
            "for you. Its operator should set DARKROOM_PUBLIC_URL to the URL that clients use, or "
            "add the name to DARKROOM_TRUSTED_HOSTS."
        )
    return host


@lru_cache(256)  # few hosts, and every call has one
def _is_known(host: str, names: frozenset[str]) -> bool:
    match = _HOST.fullmatch(host)
    name = match[1].lower() if match is not None else ""
    return name in names or is_fal(name) or parent_of(name) in names


def file_url(origin: str, key: str) -> str:
    return f"{origin}/files/{quote(key)}"


def etag_of(key: str) -> str:
    """ETag with its quotes: a digest of the key, because the content of a key never changes."""
    return f'"{hashlib.sha256(key.encode()).hexdigest()[:32]}"'


# Base URL at which replicas reach the ingress over HTTP, to upload artifacts.

WILDCARD_ADDRESSES = ("0.0.0.0", "::", "")  # noqa: S104 compared with, not bound


HEAD_NODE = "node:__internal_head__"  # resource of Ray's head node


def internal_origin() -> str:
    """URL of Serve's HTTP port, with an address that the other nodes can reach. Asking Ray blocks.

    The port is on this node, or on the head if only the head has one.
    """
    client = _get_global_client()
    if client is None:
        raise Misconfigured("The ingress has no address outside Ray Serve. Start it with Serve.")
    options = client.http_config
    host = options.host or ""
    if host in WILDCARD_ADDRESSES:
        reference: Any = client._controller.get_proxy_location.remote()  # noqa: SLF001
        location: Any = ray.get(reference)
        on_each = location == ProxyLocation.EveryNode
        host = ray.util.get_node_ip_address() if on_each else _head_address()
    return f"http://[{host}]:{options.port}" if ":" in host else f"http://{host}:{options.port}"


def _head_address() -> str:
    (head,) = [node for node in ray.nodes() if node["Alive"] and HEAD_NODE in node["Resources"]]
    return str(head["NodeManagerAddress"])
