"""Nodes and files for clients of ComfyUI, in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from serve_app.domain.executors.comfyui import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_TENANT_BYTES,
    ComfyUiFileInfo,
)
from serve_app.domain.ports import Clock
from serve_app.postgres.comfyui import check_packed, no_file, no_room


class FakeComfyUiBook:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._packed: bytes | None = None
        self._files: dict[tuple[str, str], tuple[bytes, datetime, datetime]] = {}

    async def describe(self, packed: bytes) -> None:
        check_packed(packed)
        self._packed = packed

    async def digest(self) -> str:
        return "" if self._packed is None else hashlib.sha256(self._packed).hexdigest()

    async def description(self) -> bytes | None:
        return self._packed

    async def files(self, tenant: str) -> Sequence[ComfyUiFileInfo]:
        return [
            ComfyUiFileInfo(path, len(content), created, changed)
            for (owner, path), (content, created, changed) in sorted(self._files.items())
            if owner == tenant
        ]

    async def read(self, tenant: str, path: str) -> bytes | None:
        stored = self._files.get((tenant, path))
        return None if stored is None else stored[0]

    async def put(self, tenant: str, path: str, content: bytes, *, overwrite: bool = True) -> bool:
        before = self._files.get((tenant, path))
        if before is not None and not overwrite:
            return False
        others = [file.size for file in await self.files(tenant) if file.path != path]
        full = len(others) >= MAX_FILES or sum(others) + len(content) > MAX_TENANT_BYTES
        if full or len(content) > MAX_FILE_BYTES:
            raise no_room()
        now = self._clock.now()
        self._files[tenant, path] = content, before[1] if before else now, now
        return True

    async def merge(self, tenant: str, path: str, values: Mapping[str, Any]) -> None:
        before = json.loads(await self.read(tenant, path) or "{}")
        await self.put(tenant, path, json.dumps(before | dict(values)).encode())

    async def move(self, tenant: str, source: str, path: str, *, overwrite: bool = True) -> bool:
        if (tenant, source) not in self._files:
            raise no_file()
        if source != path and (tenant, path) in self._files and not overwrite:
            return False
        self._files[tenant, path] = self._files.pop((tenant, source))
        return True

    async def remove(self, tenant: str, path: str) -> bool:
        return self._files.pop((tenant, path), None) is not None
