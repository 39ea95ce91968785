"""What a shell or a program must set so that fal's clients talk to this Darkroom.

fal's clients have fal's host names fixed in part, so a variable that moves some of their calls lets
the others go to fal's own servers, with the key. By default that cannot be: the proxy port answers
for all of fal's names, and passes none of them on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from serve_app.cli.installation import Installation
from serve_app.domain.errors import Misconfigured
from serve_app.entrance.authority import Authority
from serve_app.telemetry.clock import SystemClock

MODES = ("proxy", "hosts", "plain")
SHELLS = ("sh", "fish", "powershell")

NODE_OPTIONS = "NODE_OPTIONS"
USE_PROXY = "--use-env-proxy"
"""For Node.js, which looks at ``HTTPS_PROXY`` only when told. One that is too old for the flag
(before 22.21 and 24.5) ends with an error: better than a key that goes to fal."""

_SET: Mapping[str, str] = {
    "sh": "export {name}={value}",
    "fish": "set -gx {name} {value}",
    "powershell": "$env:{name} = {value}",
}
_QUOTE: Mapping[str, str] = {"sh": "'\\''", "fish": "\\'", "powershell": "''"}
"""What a quote is written as between quotes."""

_ADD: Mapping[str, str] = {
    "sh": 'export {name}="{value} ${{{name}:-}}"',
    "fish": 'set -gx {name} "{value} ${name}"',
    "powershell": '$env:{name} = "{value} $env:{name}"',
}
_PLAIN = """# Then, in Python, before the first call:
#   from serve_app import fal_plain_http
#   fal_plain_http.use({url!r})
#   import fal_client
#   fal_client.subscribe('fal-ai/flux/schnell', {{'prompt': 'a red circle'}})"""
_HOSTS = """# With these, uploads and tokens of realtime still go to fal, with the key: fal's client
# has those addresses fixed. `darkroom env` without --mode moves them too."""


def as_json(installation: Installation, mode: str) -> str:
    """The addresses and the key, and under ``variables`` what ``lines`` sets."""
    files = _files(installation)
    secure = installation.tls_url() is not None
    return json.dumps(
        {
            "url": installation.url(),
            "key": installation.key(),
            "tls_url": installation.tls_url(),
            "proxy_url": installation.proxy_url(),
            "certificate": str(files.certificate) if secure else None,
            "bundle": str(files.bundle) if secure else None,
            "variables": variables(installation, mode),
        }
    )


def lines(installation: Installation, mode: str, shell: str) -> str:
    """For ``eval``, in the words of ``shell``, with comments where variables do not do it all."""
    said: list[str] = []
    for name, value in variables(installation, mode).items():
        if name == NODE_OPTIONS:
            said.append(_ADD[shell].format(name=name, value=value))
        else:
            quoted = "'" + value.replace("'", _QUOTE[shell]) + "'"
            said.append(_SET[shell].format(name=name, value=quoted))
    if mode == "hosts":
        said.append(_HOSTS)
    elif installation.tls_url() is None or mode == "plain":
        said.append(_PLAIN.format(url=installation.url()))
    return "\n".join(said)


def variables(installation: Installation, mode: str) -> dict[str, str]:
    """``proxy``: every call of every client that knows proxies comes here. ``hosts``: fal's Python
    client alone, but for its uploads. ``plain``: the key, for calls that name this address.

    ``Misconfigured`` when this Darkroom lacks the port for it.
    """
    key = {"FAL_KEY": installation.key()}
    if mode == "plain":
        return key
    if mode == "hosts":
        place = urlsplit(_needed(installation.tls_url(), "TLS", "DARKROOM_TLS_PORT")).netloc
        hosts = {"FAL_RUN_HOST": place, "FAL_QUEUE_RUN_HOST": f"{place}/queue"}
        return key | hosts | _trust(installation)
    proxy = _needed(installation.proxy_url(), "proxy", "DARKROOM_PROXY_PORT")
    here = "localhost,127.0.0.1,::1"
    return (
        key
        # In both cases, because programs differ in which one they look at first.
        | {"HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": here, "no_proxy": here}
        | {"NODE_USE_ENV_PROXY": "1", NODE_OPTIONS: USE_PROXY}
        | (_trust(installation) if installation.tls_url() is not None else {})
    )


def _needed(url: str | None, what: str, setting: str) -> str:
    if url is None:
        raise Misconfigured(
            f"This Darkroom has no {what} port, so variables alone would let fal's clients send "
            f"its key to fal. Start it without {setting}=0, or use `darkroom env --mode plain` and "
            "programs that name its address."
        )
    return url


def _trust(installation: Installation) -> dict[str, str]:
    files = _files(installation)
    bundle = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # each in place of its own
    return dict.fromkeys(bundle, str(files.bundle)) | {
        "NODE_EXTRA_CA_CERTS": str(files.certificate)
    }


def _files(installation: Installation) -> Authority:
    return Authority(installation.tls_dir, (), SystemClock())
