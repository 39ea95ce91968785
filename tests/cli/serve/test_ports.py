"""Ports that `darkroom serve` opens besides its HTTP port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.serve import haproxy
from serve_app.cli.serve.ports import PROXY_PORT_OFFSET, TLS_PORT_OFFSET, plan
from serve_app.domain.errors import Misconfigured
from serve_app.free_ports import free_port
from serve_app.settings import Config

HERE, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 nothing is bound

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")


def config(**settings: Any) -> Config:
    return Config(gpus=0, **settings)


@contextmanager
def occupy_port(port: int) -> Iterator[None]:
    with socket.create_server((HERE, port)):
        yield


def test_ports_follow_from_the_http_port() -> None:
    port = free_port()
    planned = plan(config(), HERE, port)
    assert planned.tls == (HERE, port + TLS_PORT_OFFSET)
    assert planned.proxy == (HERE, port + PROXY_PORT_OFFSET)
    assert planned.names == ()


def test_a_usual_port_that_is_taken_is_replaced_and_a_given_one_is_not() -> None:
    port, chosen = free_port(), free_port()
    with occupy_port(port + TLS_PORT_OFFSET), occupy_port(chosen):
        planned = plan(config(), HERE, port)
        assert planned.tls is not None
        assert planned.tls[1] not in (port, port + TLS_PORT_OFFSET)
        with pytest.raises(Misconfigured, match=f"Port {chosen} .* --tls-port"):
            plan(config(tls_port=chosen), HERE, port)
        with pytest.raises(Misconfigured, match=f"Port {chosen} .* --proxy-port"):
            plan(config(proxy_port=chosen), HERE, port)


def test_two_options_that_name_one_port_are_refused_before_anything_starts() -> None:
    port, other = free_port(), free_port()
    with pytest.raises(Misconfigured, match=f"--port and --tls-port both name port {port}"):
        plan(config(tls_port=port), HERE, port)
    with pytest.raises(Misconfigured, match=f"--port and --proxy-port both name port {port}"):
        plan(config(proxy_port=port), HERE, port)
    with pytest.raises(Misconfigured, match=f"--tls-port and --proxy-port both .* {other}"):
        plan(config(tls_port=other, proxy_port=other), HERE, port)


def test_a_usual_port_that_an_option_names_for_the_other_is_replaced() -> None:
    port = free_port()
    for_tls = plan(config(tls_port=port + PROXY_PORT_OFFSET), HERE, port)
    for_proxy = plan(config(proxy_port=port + TLS_PORT_OFFSET), HERE, port)
    assert for_tls.tls == (HERE, port + PROXY_PORT_OFFSET)
    assert for_tls.proxy not in (None, for_tls.tls)
    assert for_proxy.proxy == (HERE, port + TLS_PORT_OFFSET)
    assert for_proxy.tls not in (None, for_proxy.proxy)


def test_beyond_the_last_port_there_is_another() -> None:
    planned = plan(config(), HERE, 65535)
    assert planned.tls is not None
    assert planned.tls[1] < 65535


def test_zero_is_none() -> None:
    planned = plan(config(tls_port=0, proxy_port=0), HERE, free_port())
    assert (planned.tls, planned.proxy) == (None, None)


def test_the_proxy_stays_on_loopback_when_the_rest_does_not() -> None:
    planned = plan(config(trusted_hosts=("gpu-box",)), EVERYWHERE, free_port())
    assert planned.tls is not None
    assert planned.proxy is not None
    assert (planned.tls[0], planned.proxy[0]) == (EVERYWHERE, HERE)
    assert {"gpu-box", socket.gethostname().lower()} <= set(planned.names)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="DARKROOM_TLS_CERTIFICATE is not"):
        plan(config(tls_key=tmp_path), HERE, free_port())
    with pytest.raises(Misconfigured, match="DARKROOM_TLS_PORT=0"):
        plan(config(tls_certificate=tmp_path, tls_port=0), HERE, free_port())


def test_without_haproxy_there_is_no_tls_and_a_wish_for_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(haproxy, "available", lambda: False)
    assert plan(config(), HERE, free_port()).tls is None
    with pytest.raises(Misconfigured, match="HAProxy"):
        plan(config(tls_port=8443), HERE, free_port())
