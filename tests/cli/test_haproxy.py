"""What Ray's HAProxy is started with."""

import subprocess
from pathlib import Path

import pytest

from serve_app.cli import haproxy

CONFIG = """frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
backend b
    server s 127.0.0.1:9101
listen stats
  bind *:8404
"""


@pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")
def test_only_the_ports_of_its_metrics_and_statistics_are_kept_to_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_METRICS_PORT", "9101")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_STATS_PORT", "8404")
    script = haproxy.write_script(tmp_path)
    said = subprocess.run(
        [script, "-c", "-f", config], check=False, capture_output=True, text=True, timeout=30
    )
    assert config.read_text() == CONFIG.replace("bind :9101", "bind 127.0.0.1:9101").replace(
        "bind *:8404", "bind 127.0.0.1:8404"
    )
    assert "unknown" not in said.stderr.lower(), said.stderr
