"""Choice of the TLS port and the proxy port that ``darkroom serve`` opens besides its HTTP port."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
import stat
import uuid
from collections.abc import Collection, Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.cli.serve import haproxy
from serve_app.domain.errors import Misconfigured
from serve_app.free_ports import free_port
from serve_app.gateway.gateway import GatewayPlan, Place
from serve_app.ingress.http.hosts import trusted_names
from serve_app.settings import Config
from serve_app.settings.groups import GatewaySettings

# Checks before the start of Darkroom. Each raises ``Misconfigured`` with the remedy.

MIN_FREE_BYTES = 512 * 2**20  # the database alone takes about 60 MB at its first start

MIN_OPEN_FILES = 1024  # every system's default for one process

OWN_FOLDERS = "artifacts", "postgres"


def check_data_dir(data_dir: Path) -> None:
    """Check that the directory exists or can be created, is writable, and has free space."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _close_to_others(data_dir)
        probe = data_dir / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except NotADirectoryError:
        raise Misconfigured(f"{data_dir} is not a directory. Choose another --data-dir.") from None
    except FileExistsError:
        raise Misconfigured(
            f"{data_dir} is a file, not a directory. Choose another --data-dir."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Misconfigured(f"The disk of {data_dir} is full. Free some space on it.") from None
        raise Misconfigured(
            f"The data directory {data_dir} cannot be written ({error.strerror}). "
            "Change its owner, or choose another directory with --data-dir."
        ) from None
    free = shutil.disk_usage(data_dir).free
    if free < MIN_FREE_BYTES:
        raise Misconfigured(
            f"Only {free // 2**20} MB are free on the disk of {data_dir}; "
            f"Darkroom needs {MIN_FREE_BYTES // 2**20} MB. Free some space."
        )


def check_working_dir() -> None:
    """Check that the working directory exists. Neither Ray nor HAProxy starts in a deleted one."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise Misconfigured(
            "The directory in which this command was started has been deleted. Change to another "
            "one with `cd`, and start again."
        ) from None


def check_open_files() -> None:
    """Check that HAProxy can open its connections (``ray_flags.most_connections``)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES:
        raise Misconfigured(
            f"A process may have only {hard} files open here, and Darkroom needs {MIN_OPEN_FILES}. "
            "Raise the limit (`ulimit -Hn`, or LimitNOFILE= of a systemd unit)."
        )


def _close_to_others(data_dir: Path) -> None:
    """Take the rights of other users from a data directory of Darkroom, which earlier versions made
    readable. Those of its group stay, for example for a backup's user. A directory of which
    nothing is Darkroom's yet may be one that others share."""
    status = data_dir.stat()
    own = any((data_dir / name).exists() for name in OWN_FOLDERS)
    if own and status.st_uid == os.getuid() and status.st_mode & stat.S_IRWXO:
        data_dir.chmod(stat.S_IMODE(status.st_mode) & ~stat.S_IRWXO)


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Check that a process can listen there. The error names ``option`` as the one to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # HAProxy and uvicorn set this option too: connections in TIME_WAIT do not block the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            # Only listen() reveals another listener that has set the same option.
            listener.listen(1)
        except TypeError:  # of a name that is no text, such as bytes that are not UTF-8
            raise Misconfigured(
                f"{host!r} is not the name of a host. Choose another --host."
            ) from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Misconfigured(
                    f"Port {port} on {host} is in use by another program. Stop that program, or "
                    f"choose another port with {option}."
                ) from None
            raise Misconfigured(
                f"Port {port} on {host} cannot be opened: {error.strerror}. "
                f"Choose another {option} or host."
            ) from None


def check_run_dir(run_dir: Path) -> None:
    """Check that the directory of sockets and Ray's session can be created, has free space, and
    is closed to other users."""
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(run_dir).free
    except OSError as error:
        raise Misconfigured(
            f"The directory {run_dir}, for Ray's files, cannot be created: {error.strerror}. "
            f"Make {run_dir.parent} writable."
        ) from None
    if free < MIN_FREE_BYTES:
        raise Misconfigured(
            f"Only {free // 2**20} MB are free on the disk of {run_dir}, for Ray's files; "
            f"Darkroom needs {MIN_FREE_BYTES // 2**20} MB there. Free some space."
        )
    status = run_dir.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Misconfigured(
            f"Another user owns {run_dir} or can access it, so Darkroom does not use it. Delete it "
            "and start again."
        )


TLS_PORT_OFFSET = 443  # offset from the HTTP port: 8443 for 8000
PROXY_PORT_OFFSET = 128  # 8128 for 8000, like the usual proxy port 3128


def plan(config: Config, host: str, port: int) -> GatewayPlan:
    """Ports for an HTTP port at ``host:port``.

    A port that a setting names must be free, and not the one of another; otherwise
    ``Misconfigured`` names the setting. Without a setting, a port that is in use is replaced by
    another free one.
    """
    gateway = config.gateway
    _check(gateway)
    taken = {port: "--port"}
    tls: int | None = None
    if haproxy.available():
        tls = _named_port(gateway.tls_port, host, "--tls-port", taken)
    proxy = _named_port(gateway.proxy_port, gateway.proxy_host, "--proxy-port", taken)
    if haproxy.available() and gateway.tls_port is None:
        tls = _usual_port(port + TLS_PORT_OFFSET, host, taken)
    if gateway.proxy_port is None:
        proxy = _usual_port(port + PROXY_PORT_OFFSET, gateway.proxy_host, taken)
    return GatewayPlan(
        http=(host, port),
        tls=_place(host, tls),
        proxy=_place(gateway.proxy_host, proxy),
        names=_names(config, host),
        certificate=gateway.tls_certificate,
        key=gateway.tls_key,
    )


def ports_text(addresses: Mapping[str, str]) -> str:
    """Text for the terminal with the addresses of these ports."""
    ports = [
        *(f"HTTPS: {url}." for name, url in addresses.items() if name == "tls_url"),
        *(
            f"Proxy for fal's host names: {url}."
            for name, url in addresses.items()
            if name == "proxy_url"
        ),
    ]
    return " ".join(ports) or "The TLS port and the proxy port are disabled."


def _check(gateway: GatewaySettings) -> None:
    if gateway.tls_port and not haproxy.available():
        raise Misconfigured(
            "The TLS port needs HAProxy, which has no build for this machine. Unset "
            "DARKROOM_TLS_PORT and put your own TLS proxy in front of Darkroom."
        )
    if gateway.tls_key is not None and gateway.tls_certificate is None:
        raise Misconfigured(
            "DARKROOM_TLS_KEY is set, but DARKROOM_TLS_CERTIFICATE is not. Set both, or neither."
        )
    if gateway.tls_certificate is not None and gateway.tls_port == 0:
        raise Misconfigured(
            "DARKROOM_TLS_CERTIFICATE is set, but DARKROOM_TLS_PORT=0 disables TLS. Unset one of "
            "them."
        )


def _named_port(port: int | None, host: str, option: str, taken: dict[int, str]) -> int | None:
    """Port of a setting, which is added to those that are ``taken`` by an option. None: there is no
    setting, or it disables the port."""
    if not port:
        return None
    if port in taken:
        raise Misconfigured(
            f"{taken[port]} and {option} both name port {port}. Choose another {option}."
        )
    check_port(host, port, option)
    taken[port] = option
    return port


def _usual_port(usual: int, host: str, taken: Collection[int]) -> int:
    if usual in taken:
        return free_port()
    try:
        check_port(host, usual)
    except (Misconfigured, OverflowError):  # in use, or above 65535
        return free_port()
    return usual


def _place(host: str, port: int | None) -> Place | None:
    return None if port is None else (host, port)


def _names(config: Config, host: str) -> tuple[str, ...]:
    """Names for the certificate besides those of loopback.

    This machine's own names are included only if other machines can reach ``host``.
    """
    public = urlsplit(config.server.public_url or "").hostname
    named = (public, config.models.comfyui_host)
    hosts = (*config.server.trusted_hosts, *(name for name in named if name is not None))
    return tuple(sorted(hosts if is_loopback(host) else trusted_names(host, hosts)))


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
