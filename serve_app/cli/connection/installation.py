"""Files and addresses of a Darkroom on this machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import Misconfigured
from serve_app.settings import ADDRESS_FILE

SHORT_TEMP_DIR = Path("/tmp")  # noqa: S108 holds only our own directory, which is checked


@dataclass(frozen=True)
class Installation:
    """One data directory, with the paths and addresses that ``darkroom`` commands need.

    The address and key methods raise ``Misconfigured`` if no Darkroom is running or no key exists.
    ``secret``: API key to use in place of the first one.
    """

    data_dir: Path
    secret: str | None = None

    @property
    def key_file(self) -> Path:
        return self.data_dir / "api_key"

    @property
    def run_file(self) -> Path:
        return self.data_dir / "run.json"

    @property
    def address_file(self) -> Path:
        """File that the ingress writes, however it was started."""
        return self.data_dir / ADDRESS_FILE

    @property
    def is_started(self) -> bool:
        """True if a Darkroom was started here and has left its address."""
        return self.run_file.exists() or self.address_file.exists()

    @property
    def lock_file(self) -> Path:
        return self.data_dir / "serve.lock"

    @contextlib.contextmanager
    def lock(self, advice: str, command: str = "") -> Generator[None]:
        """Hold the data directory, so that no Darkroom starts on it meanwhile. Raises
        ``Misconfigured`` with ``advice`` if another process holds it.

        ``command``: what holds it, for the message to others, if it is not ``darkroom serve``.
        """
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.lock_file.open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip() or "pid unknown"
                raise Misconfigured(
                    f"Another Darkroom ({owner}) uses {self.data_dir}. {advice}"
                ) from None
            lock.truncate(0)
            lock.write(f"pid {os.getpid()}, {command}" if command else f"pid {os.getpid()}")
            lock.flush()
            # No child may inherit the descriptor, or the lock would outlive this process.
            os.set_inheritable(lock.fileno(), False)  # noqa: FBT003 its only argument
            yield

    @property
    def log_file(self) -> Path:
        return self.data_dir / "logs" / "darkroom.log"

    @property
    def tls_dir(self) -> Path:
        """Directory of the TLS port's certificates and their keys."""
        return self.data_dir / "tls"

    @property
    def run_dir(self) -> Path:
        """Directory of sockets and Ray's session.

        Its path is short because the path of a Unix socket is limited to about 100 bytes, and Ray
        and HAProxy use about 70 of them.
        """
        name = hashlib.sha256(f"{os.getuid()}:{self.data_dir}".encode()).hexdigest()[:8]
        usable = os.access(SHORT_TEMP_DIR, os.W_OK | os.X_OK)  # False if it is mounted read-only
        parent = SHORT_TEMP_DIR if usable else Path(tempfile.gettempdir())
        return parent / f"darkroom-{name}"

    def url(self) -> str:
        """Origin of the HTTP port of the Darkroom that runs on this data directory."""
        return self._read_address("url") or ""

    def tls_url(self) -> str | None:
        """Origin of the TLS port; None if there is none."""
        return self._read_address("tls_url")

    def proxy_url(self) -> str | None:
        """URL of the proxy port, for programs to use as HTTPS proxy; None if there is none."""
        return self._read_address("proxy_url")

    def _read_address(self, name: str) -> str | None:
        for path in (self.run_file, self.address_file):
            with contextlib.suppress(OSError, ValueError, KeyError):
                content = json.loads(path.read_text())
                return str(content[name]) if name == "url" or content.get(name) else None
        raise Misconfigured(
            f"No Darkroom is running on {self.data_dir}. Start one with `darkroom serve`, select "
            "another data directory with --data-dir, or name an address with --url."
        )

    def key(self) -> str:
        """API key as ``id:secret``: the chosen one, or the one that the first start created."""
        if self.secret is not None:
            return self.secret
        try:
            return self.key_file.read_text().strip()
        except PermissionError:
            raise Misconfigured(
                f"The API key in {self.key_file} cannot be read, because the file belongs to "
                "another user. Run the command as its owner."
            ) from None
        except OSError:
            raise Misconfigured(
                f"There is no API key in {self.key_file}. Start Darkroom once: the first start "
                "creates the key."
            ) from None
