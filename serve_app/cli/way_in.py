"""Which ports ``darkroom serve`` opens besides its HTTP port."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from serve_app.cli import haproxy, preflight
from serve_app.domain.errors import Misconfigured
from serve_app.entrance.entrance import Place, Plan
from serve_app.ingress.host_names import trusted_names
from serve_app.settings import Config

TLS_ABOVE = 443  # the HTTP port: 8443 when that is 8000
PROXY_ABOVE = 128  # 8128, as 3128 is for proxies


def plan(config: Config, host: str, port: int) -> Plan:
    """For an HTTP port at ``host:port``. A port that a setting names has to be free; one that none
    names is another when the usual one is taken. ``Misconfigured`` with the setting to change."""
    _check(config)
    tls: int | None = None
    if haproxy.available():
        tls = _chosen(config.tls_port, port + TLS_ABOVE, host, "--tls-port")
    proxy = _chosen(config.proxy_port, port + PROXY_ABOVE, config.proxy_host, "--proxy-port")
    return Plan(
        http=(host, port),
        tls=_place(host, tls),
        proxy=_place(config.proxy_host, proxy),
        names=_names(config, host),
        certificate=config.tls_certificate,
        key=config.tls_key,
    )


def told(addresses: Mapping[str, str]) -> str:
    """What a person wants to know about them."""
    ports = [
        *(f"HTTPS: {url}." for name, url in addresses.items() if name == "tls_url"),
        *(
            f"Proxy for fal's names: {url}."
            for name, url in addresses.items()
            if name == "proxy_url"
        ),
    ]
    return " ".join(ports) or "There is neither a TLS port nor a proxy port."


def _check(config: Config) -> None:
    if config.tls_port and not haproxy.available():
        raise Misconfigured(
            "HAProxy, which the TLS port takes, has no build for this machine. Leave "
            "DARKROOM_TLS_PORT unset and put a proxy of yours before Darkroom."
        )
    if config.tls_key is not None and config.tls_certificate is None:
        raise Misconfigured("DARKROOM_TLS_KEY is set, and DARKROOM_TLS_CERTIFICATE is not.")
    if config.tls_certificate is not None and config.tls_port == 0:
        raise Misconfigured(
            "DARKROOM_TLS_CERTIFICATE is set, and DARKROOM_TLS_PORT=0 turns TLS off."
        )


def _chosen(given: int | None, usual: int, host: str, option: str) -> int | None:
    if given == 0:
        return None
    if given is not None:
        preflight.check_port(host, given, option)
        return given
    try:
        preflight.check_port(host, usual)
    except (Misconfigured, OverflowError):  # taken, or beyond the last port there is
        return preflight.free_port()
    return usual


def _place(host: str, port: int | None) -> Place | None:
    return None if port is None else (host, port)


def _names(config: Config, host: str) -> tuple[str, ...]:
    """Besides loopback's. This machine's own only when others can reach it."""
    public = urlsplit(config.public_url or "").hostname
    given = (*config.trusted_hosts, *(() if public is None else (public,)))
    return tuple(sorted(given if _is_loopback(host) else trusted_names(host, given)))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
