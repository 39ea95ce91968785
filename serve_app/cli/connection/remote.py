"""A Darkroom that is reached by its address, on this machine or another."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from serve_app.domain.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Remote:
    """Origin and API key of a Darkroom.

    ``ca_file``: PEM file with the authority of its certificate; None: the ones that this machine
    trusts. ``signed_in``: the key is of a sign-in, and ends with it.
    """

    address: str
    secret: str
    ca_file: str | None = None
    signed_in: bool = False

    def url(self) -> str:
        return self.address

    def key(self) -> str:
        return self.secret

    def tls_url(self) -> str | None:
        """The origin if it is HTTPS, else None."""
        return self.address if self.address.startswith("https:") else None

    def proxy_url(self) -> None:
        """None: where its proxy port is, only its own machine knows."""

    @property
    def readable_on_the_way(self) -> bool:
        """True if others on the network can read the key."""
        return self.tls_url() is None and not self.is_this_machine

    @property
    def is_this_machine(self) -> bool:
        """True if the address is this machine's own."""
        host = urlsplit(self.address).hostname
        try:
            return ipaddress.ip_address(host or "").is_loopback
        except ValueError:
            return host == "localhost"


def origin(url: str) -> str:
    """``url`` as an origin. Raises ``Misconfigured`` if it has a path or is not HTTP."""
    wrong = Misconfigured(f"{url} is not the address of a Darkroom. Use http(s)://HOST[:PORT].")
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        reachable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an IPv6 address, or no number as the port
        raise wrong from None
    if parts.scheme not in ("http", "https") or not reachable or any(map(str.isspace, url)):
        raise wrong
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise Misconfigured(f"{url} has more than host and port. Use {parts.scheme}://HOST[:PORT].")
    return f"{parts.scheme}://{parts.netloc}"
