"""Wrapper script with which Ray starts HAProxy."""

import socket
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import pytest

from serve_app.cli.serve import haproxy
from serve_app.free_ports import free_port

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")

LOG = "    log 127.0.0.1:514 local0 info\n"
CONFIG = f"""global
{LOG}defaults
    log global
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
    default_backend b
backend b
    server s 127.0.0.1:9101
listen stats
  bind *:8404
"""

SLOW_CLIENT = """
defaults
    mode http
    timeout connect 60s
    timeout client 600s
    timeout server 600s
frontend http_frontend
    bind 127.0.0.1:{port}
    http-request return status 200
"""


@pytest.fixture
def started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the script with ``CONFIG`` and return the configuration that HAProxy read."""
    monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", "9101")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "8404")
    monkeypatch.delenv("RAY_SERVE_HAPROXY_LOG_TARGET", raising=False)

    def start(*trusted: IPv4Network | IPv6Network, config_text: str = CONFIG) -> str:
        config = tmp_path / "haproxy.cfg"
        config.write_text(config_text)
        script = haproxy.write_script(tmp_path, trusted, secret="s3cret")
        said = subprocess.run(
            [script, "-c", "-f", config], check=False, capture_output=True, text=True, timeout=30
        )
        assert "unknown" not in said.stderr.lower(), said.stderr
        assert "[ALERT]" not in said.stderr, said.stderr
        return config.read_text()

    return start


def test_only_the_ports_of_its_metrics_and_statistics_are_kept_to_loopback(
    started_with: Callable[[], str],
) -> None:
    read = started_with()
    assert [line.strip() for line in read.splitlines() if "bind" in line] == [
        "bind 127.0.0.1:9101",
        "bind *:8000",
        "bind 127.0.0.1:8404",
    ]
    assert "server s 127.0.0.1:9101" in read


def test_calls_go_to_no_syslog_that_is_not_configured(
    started_with: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LOG not in started_with()
    monkeypatch.setenv("RAY_SERVE_HAPROXY_LOG_TARGET", "127.0.0.1:514")
    assert LOG in started_with()


def test_the_headers_of_a_call_have_to_arrive_within_a_time(
    started_with: Callable[..., str],
) -> None:
    read = started_with()
    assert "defaults\n    timeout http-request 30s\n" in read
    assert started_with(config_text=read) == read, "a second start changes nothing"


def test_half_a_header_is_cut_after_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(haproxy, "HEADERS_S", 1)
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(SLOW_CLIENT.format(port=port))
    script = haproxy.write_script(tmp_path, secret="s3cret")
    with subprocess.Popen([script, "-db", "-f", config], stdin=subprocess.DEVNULL) as process:
        try:
            with connected(port, process) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: darkroom\r\nX-Slow: hal")
                assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
                while client.recv(1000):
                    pass  # until it closes the connection
        finally:
            process.terminate()


def connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    """Connection to HAProxy, as soon as it listens."""
    while process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"HAProxy has ended with {process.returncode}")


def test_a_proxy_in_front_is_believed_only_if_it_is_trusted(
    started_with: Callable[..., str],
) -> None:
    removes = "    http-request del-header x-forwarded- -m beg"
    assert f"frontend http_frontend\n{removes}\n" in started_with()
    trusting = started_with(ip_network("10.0.0.5"), ip_network("fd00::/8"))
    assert f"{removes} unless {{ src 10.0.0.5/32 fd00::/8 }}\n" in trusting


def test_the_ingress_learns_the_client_and_that_haproxy_says_it(
    started_with: Callable[..., str],
) -> None:
    read = started_with()
    client = "    http-request set-header x-darkroom-client %[src] unless"
    assert f"{client} {{ req.hdr(x-darkroom-proxy-secret) -m str s3cret }}\n" in read
    assert "    http-request set-header x-darkroom-proxy-secret s3cret\n" in read
    assert started_with(config_text=read) == read, "a second start changes nothing"
