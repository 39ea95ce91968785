"""``darkroom env``: environment variables that point fal's clients to this Darkroom.

Some of fal's host names are fixed in fal's clients. Variables that redirect only some of their
calls would let the other calls reach fal's own servers, with the key. The default mode prevents
this: the proxy port answers for all of fal's host names and forwards none of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.contexts import contexts_file
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import echo
from serve_app.domain.errors import Misconfigured
from serve_app.gateway import private_file
from serve_app.gateway.certificate_authority import CertificateAuthority, trusted_roots
from serve_app.telemetry.clock import SystemClock

MODES = ("proxy", "hosts", "plain")
SHELLS = ("sh", "fish", "powershell")

NODE_OPTIONS = "NODE_OPTIONS"
USE_PROXY = "--use-env-proxy"
"""Flag that makes Node.js read ``HTTPS_PROXY``. Versions without it exit with an error."""
WITH_PROXY = ((22, 21), (24, 5))
"""First releases with the flag, of each major version that has it; all later ones do."""
REDIRECT = Path(__file__).parents[2] / "fal_plain_http.cjs"
"""Program for older versions: sends what they fetch from fal to Darkroom, and refuses the rest."""
NODE_TIMEOUT_S = 10.0

_SET: Mapping[str, str] = {
    "sh": "export {name}={value}",
    "fish": "set -gx {name} {value}",
    "powershell": "$env:{name} = {value}",
}
_QUOTE: Mapping[str, str] = {"sh": "'\\''", "fish": "\\'", "powershell": "''"}
"""Escape sequence of a single quote inside single quotes, by shell."""

_DOUBLE: Mapping[str, str] = {"sh": '\\"', "fish": '\\"', "powershell": '`"'}
"""Escape sequence of a double quote inside double quotes, by shell."""

_ADD: Mapping[str, str] = {
    "sh": 'export {name}="{value} ${{{name}:-}}"',
    "fish": 'set -gx {name} "{value} ${name}"',
    "powershell": '$env:{name} = "{value} $env:{name}"',
}
_PLAIN = """# In Python, run this before the first call:
#   import fal_plain_http
#   fal_plain_http.use({url!r})
#   import fal_client
#   fal_client.subscribe('fal-ai/flux/schnell', {{'prompt': 'a red circle'}})"""
_HOSTS = """# With these variables, uploads and realtime tokens still go to fal, with the key: fal's
# client has those addresses fixed. `darkroom env` without --mode redirects them too."""


@dataclass(frozen=True, slots=True)
class NodeVersion:
    """Version of the Node.js that runs in this shell."""

    major: int
    minor: int

    @property
    def uses_proxy(self) -> bool:
        """True if it has the flag ``USE_PROXY``."""
        first = [minor for major, minor in WITH_PROXY if major == self.major]
        return self.minor >= first[0] if first else self.major > WITH_PROXY[-1][0]


def installed_node() -> NodeVersion | None:
    """Node.js on the path; None if there is none, or if it does not say its version."""
    program = shutil.which("node")
    if program is None:
        return None
    try:
        ran = subprocess.run(  # noqa: S603 found on the path; no shell
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=NODE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"v(\d+)\.(\d+)\.", ran.stdout)
    return NodeVersion(int(match[1]), int(match[2])) if match else None


def node_note(node: NodeVersion | None, mode: str) -> str | None:
    """Sentence about a Node.js version that cannot use the proxy; None if it can."""
    if mode != "proxy" or node is None or node.uses_proxy:
        return None
    return (
        f"Node.js {node.major}.{node.minor} cannot use a proxy. In this shell, what its programs "
        "fetch from fal goes to Darkroom all the same; https.request and WebSocket to fal fail. "
        "Node.js 22.21, 24.5 and later have no such limit."
    )


def variables_as_json(server: Server, mode: str) -> str:
    """JSON document with the addresses, the key and, as ``variables``, what ``lines`` sets."""
    certificate, bundle = _certificates(server) or (None, None)
    return json.dumps(
        {
            "url": server.url(),
            "key": server.key(),
            "tls_url": server.tls_url(),
            "proxy_url": server.proxy_url(),
            "certificate": certificate,
            "bundle": bundle,
            "variables": variables(server, mode),
        }
    )


def lines(server: Server, mode: str, shell: str) -> str:
    """Script for ``eval`` in ``shell``, with comments if the variables alone are not enough."""
    script_lines: list[str] = []
    for name, value in variables(server, mode).items():
        if name == NODE_OPTIONS:
            escaped = value.replace('"', _DOUBLE[shell])
            script_lines.append(_ADD[shell].format(name=name, value=escaped))
        else:
            quoted = "'" + value.replace("'", _QUOTE[shell]) + "'"
            script_lines.append(_SET[shell].format(name=name, value=quoted))
    if mode == "hosts":
        script_lines.append(_HOSTS)
    elif server.tls_url() is None or mode == "plain":
        script_lines.append(_PLAIN.format(url=server.url()))
    return "\n".join(script_lines)


def variables(server: Server, mode: str) -> dict[str, str]:
    """Variables of a mode.

    ``proxy`` redirects every call of every client that supports proxies. ``hosts`` redirects only
    fal's Python client, without its uploads. ``plain`` sets only the key, for programs that name
    this server's address.

    Raises ``Misconfigured`` if this Darkroom does not have the port that the mode needs, or if it
    is on another machine and the port is not known.
    """
    key = {"FAL_KEY": server.key()}
    if mode == "plain":
        return key
    if mode == "hosts":
        place = urlsplit(_require_url(server.tls_url(), "TLS", "DARKROOM_TLS_PORT")).netloc
        hosts = {"FAL_RUN_HOST": place, "FAL_QUEUE_RUN_HOST": f"{place}/queue"}
        return key | hosts | _trust(server)
    if isinstance(server, Remote):
        raise Misconfigured(
            f"Only the machine of {server.address} knows where its proxy port is. Use "
            "`darkroom env --mode hosts` if the address is HTTPS, or --mode plain and programs "
            "that name its address."
        )
    proxy = _require_url(server.proxy_url(), "proxy", "DARKROOM_PROXY_PORT")
    here = "localhost,127.0.0.1,::1"
    return (
        key
        # Upper and lower case, because programs differ in the one that they read first.
        | {"HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": here, "no_proxy": here}
        | _node_variables(server)
        | _trust(server)
    )


def _node_variables(server: Server) -> dict[str, str]:
    """Variables for the installed Node.js; for a current one if none is installed yet."""
    node = installed_node()
    if node is None or node.uses_proxy:
        return {"NODE_USE_ENV_PROXY": "1", NODE_OPTIONS: USE_PROXY}
    return {"FAL_PLAIN_HTTP": server.url(), NODE_OPTIONS: f"--require={_quote(REDIRECT)}"}


def _quote(path: Path) -> str:
    """Path as Node.js splits its options."""
    text = str(path)
    return f'"{text}"' if " " in text else text


def _require_url(url: str | None, what: str, setting: str) -> str:
    if url is None:
        raise Misconfigured(
            f"This Darkroom has no {what} port, so with variables alone fal's clients could send "
            f"its key to fal. Start Darkroom without {setting}=0, or use "
            "`darkroom env --mode plain` and programs that name its address."
        )
    return url


def _trust(server: Server) -> dict[str, str]:
    pair = _certificates(server)
    if pair is None:
        return {}
    certificate, bundle = pair
    # Each of these replaces the program's own bundle.
    replaced = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    return dict.fromkeys(replaced, bundle) | {"NODE_EXTRA_CA_CERTS": certificate}


def _certificates(server: Server) -> tuple[str, str] | None:
    """PEM files with the server's own authority, and with all trusted ones. None if it has none of
    its own."""
    if isinstance(server, Remote):
        return None if server.ca_file is None else (server.ca_file, _bundle(server, server.ca_file))
    if server.tls_url() is None:
        return None
    files = CertificateAuthority(server.tls_dir, (), SystemClock())
    return str(files.certificate), str(files.bundle)


def _bundle(server: Remote, ca_file: str) -> str:
    """Path of a file beside the saved contexts with all roots that this machine trusts and the
    server's authority, as an installation on this machine has one. Raises ``Misconfigured``."""
    name = hashlib.sha256(server.address.encode()).hexdigest()[:12]
    path = contexts_file().with_name(f"bundle-{name}.pem")
    try:
        own = Path(ca_file).read_bytes()
    except OSError as error:
        raise Misconfigured(
            f"The authority of {server.address} in {ca_file} cannot be read: "
            f"{error.strerror or error}. Log in again with another --ca-file."
        ) from None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.write(path, b"".join((*trusted_roots(besides=path), own)))
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror or error}.") from None
    return str(path)


@click.command("env")
@options.server
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="proxy",
    show_default=True,
    help="proxy: send all of fal's host names through the proxy. hosts: redirect only fal's "
    "Python client. plain: set only the key.",
)
@click.option(
    "--shell",
    type=click.Choice(SHELLS),
    default="sh",
    show_default=True,
    help="Shell that reads the variables. sh: also bash and zsh.",
)
@options.as_json
def env_command(server: Server, mode: str, shell: str, *, as_json: bool) -> None:
    """Print variables that point fal's clients here.

    Example: eval "$(darkroom env)"
    """
    if as_json:
        echo(variables_as_json(server, mode))
    else:
        echo(lines(server, mode, shell))
    if note := node_note(installed_node(), mode):
        echo(note, err=True)
