"""Environment of processes that read what strangers send."""

from __future__ import annotations

import os

PASSED = frozenset(
    {
        "HF_ENDPOINT",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_OFFLINE",
        "HF_TOKEN",
        "HOME",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "LANG",
        "LC_ALL",
        "LD_LIBRARY_PATH",
        "NO_PROXY",
        "PATH",
        "PYTHONPATH",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "SYSTEMROOT",
        "TMPDIR",
        "TZ",
        "XDG_CACHE_HOME",
        "https_proxy",
        "http_proxy",
        "no_proxy",
    }
)
"""Variables that a child gets: what Python, the network and the hub's library need. Of Darkroom's
secrets only the token of the hub, with which the files of a gated base are read."""


def checking_environment() -> dict[str, str]:
    """Variables of the process that checks weights of tenants."""
    environ = os.environ  # noqa: TID251
    return {name: value for name, value in environ.items() if name in PASSED}
