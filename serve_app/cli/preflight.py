"""What must hold before Darkroom can start, each as a sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import uuid
from pathlib import Path

from serve_app.domain.errors import Misconfigured

PORTS = range(20_000, 30_000)
LEAST_FREE_BYTES = 512 * 2**20  # the database alone takes some 60 MB at its first start


def check_data_dir(data_dir: Path) -> None:
    """The directory exists or can be made, is ours to write, and has room."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = data_dir / f".probe-{uuid.uuid4().hex}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except NotADirectoryError:
        raise Misconfigured(f"{data_dir} is not a directory. Choose another --data-dir.") from None
    except FileExistsError:
        raise Misconfigured(f"{data_dir} is a file. Choose another --data-dir.") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Misconfigured(f"The disk of {data_dir} is full. Free some space.") from None
        raise Misconfigured(
            f"The data directory {data_dir} cannot be written ({error.strerror}). "
            "Choose another with --data-dir, or change its owner."
        ) from None
    free = shutil.disk_usage(data_dir).free
    if free < LEAST_FREE_BYTES:
        raise Misconfigured(
            f"Only {free // 2**20} MB are free on the disk of {data_dir}; "
            f"Darkroom needs {LEAST_FREE_BYTES // 2**20} MB. Free some space."
        )


def check_port(host: str, port: int, option: str = "--port") -> None:
    """``Misconfigured``, naming the ``option`` to change, when nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # HAProxy and uvicorn bind so too: connections in TIME_WAIT do not count as taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            # Only listening shows another listener that has set the same option.
            listener.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Misconfigured(
                    f"Port {port} on {host} is taken by another program. Choose one with {option}."
                ) from None
            raise Misconfigured(
                f"Port {port} on {host} cannot be opened: {error.strerror}. "
                f"Choose another {option} or host."
            ) from None


def check_run_dir(run_dir: Path) -> None:
    """The directory for sockets and Ray's session can be made, has room, and is ours alone."""
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(run_dir).free
    except OSError as error:
        raise Misconfigured(
            f"{run_dir}, for Ray's files, cannot be made: {error.strerror}."
        ) from None
    if free < LEAST_FREE_BYTES:
        raise Misconfigured(
            f"Only {free // 2**20} MB are free on the disk of {run_dir}, for Ray's files; "
            f"Darkroom needs {LEAST_FREE_BYTES // 2**20} MB there. Free some space."
        )
    status = run_dir.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Misconfigured(
            f"{run_dir} is open to others or belongs to somebody else. Remove it and start again."
        )


def free_port() -> int:
    """A port that nothing listens on now, on any interface."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many different ones.

    They lie below those that the kernel gives to whoever asks for any, or else one of Ray's many
    processes might have got it before it is used, and off those that Ray chooses from itself.
    """
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in random.sample(PORTS, len(PORTS)):
            listener = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):
                listener.bind(("", port))
                found.append(port)
            if len(found) == count:
                return found
    raise Misconfigured(f"No {count} ports are free from {PORTS.start} to {PORTS.stop - 1}.")
