"""Where a Darkroom on this machine keeps its things, and how to reach it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import Misconfigured

SHORT_TEMPORARY = Path("/tmp")  # noqa: S108 a directory of ours is made in it, and checked


@dataclass(frozen=True)
class Installation:
    """One data directory: everything that `darkroom` commands need to find."""

    data_dir: Path

    @property
    def key_file(self) -> Path:
        return self.data_dir / "api_key"

    @property
    def run_file(self) -> Path:
        return self.data_dir / "run.json"

    @property
    def lock_file(self) -> Path:
        return self.data_dir / "serve.lock"

    @property
    def log_file(self) -> Path:
        return self.data_dir / "logs" / "darkroom.log"

    @property
    def tls_dir(self) -> Path:
        """The certificates of the TLS port, with their keys."""
        return self.data_dir / "tls"

    @property
    def run_dir(self) -> Path:
        """Sockets and Ray's session. Short: a Unix socket's path holds about 100 bytes, of which
        Ray and HAProxy take some 70 for themselves."""
        name = hashlib.sha256(f"{os.getuid()}:{self.data_dir}".encode()).hexdigest()[:8]
        parent = SHORT_TEMPORARY if SHORT_TEMPORARY.is_dir() else Path(tempfile.gettempdir())
        return parent / f"darkroom-{name}"

    def url(self) -> str:
        """Origin of the Darkroom that runs on this data directory."""
        return self._recorded("url") or ""

    def tls_url(self) -> str | None:
        """Origin of its TLS port; None when it has none."""
        return self._recorded("tls_url")

    def proxy_url(self) -> str | None:
        """What programs take as their HTTPS proxy; None when it has none."""
        return self._recorded("proxy_url")

    def _recorded(self, name: str) -> str | None:
        try:
            content = json.loads(self.run_file.read_text())
            return str(content[name]) if name == "url" or content.get(name) else None
        except (OSError, ValueError, KeyError):
            raise Misconfigured(
                f"No Darkroom runs on {self.data_dir}. Start one with `darkroom serve`, "
                "or name its directory with --data-dir."
            ) from None

    def key(self) -> str:
        """The API key made on the first start, as ``id:secret``."""
        try:
            return self.key_file.read_text().strip()
        except PermissionError:
            raise Misconfigured(
                f"{self.key_file} belongs to another user; only its owner may read the API key."
            ) from None
        except OSError:
            raise Misconfigured(
                f"There is no API key in {self.key_file}. It is made when Darkroom first starts."
            ) from None
