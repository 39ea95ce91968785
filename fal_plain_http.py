"""Redirection of fal's Python client to a Darkroom over plain HTTP.

The client builds its URLs from ``https://`` and a host name, and no environment variable can change
the scheme. With TLS, two variables are enough and this module is not needed.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import fal_client.client


def use(base_url: str) -> None:
    """Send all calls of ``fal_client`` to ``base_url``, such as ``http://host:port``.

    Call it before a client is created: an existing client may keep its upload address. Raises
    ``ValueError`` if ``base_url`` is not an http or https origin.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{base_url!r} is not a URL such as http://127.0.0.1:8000")
    base = base_url.rstrip("/")
    fal_client.client.RUN_URL_FORMAT = f"{base}/run/"
    fal_client.client.QUEUE_URL_FORMAT = f"{base}/queue/"
    fal_client.client.REALTIME_URL_FORMAT = f"ws{base.removeprefix('http')}/run/"
    addresses: Any = fal_client.client
    addresses.REST_URL = f"{base}/rest"
    addresses.CDN_URL = f"{base}/cdn"
