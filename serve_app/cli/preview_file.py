"""A file that shows what is being made, for a viewer that follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from serve_app.cli.files import write


class PreviewFile:
    """Written anew with each preview; whoever opens it finds a whole one."""

    def __init__(self, fetch: Callable[[str], bytes | None], path: Path) -> None:
        """``fetch``: as ``Client.preview``."""
        self._fetch = fetch
        self._path = path
        self._looked: str | None = None

    def look(self, status: Mapping[str, Any]) -> None:
        """Fetch what the status tells of, unless it is there already."""
        url = (status.get("darkroom") or {}).get("preview")
        if url is None or url == self._looked:
            return
        self._looked = url
        if picture := self._fetch(url):
            fresh = self._path.with_name(f".{self._path.name}.new")
            write(fresh, picture)
            fresh.replace(self._path)
