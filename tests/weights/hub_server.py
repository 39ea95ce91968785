"""A small fake hub on loopback that speaks the protocol of the real one.

    GET  /api/models/{repository}/revision/{commit}?blobs=true    files with sizes and digests
    HEAD /{repository}/resolve/{commit}/{path}                    X-Repo-Commit, ETag, X-Linked-…
    GET  the same                                                 302 to the CDN for large files

The CDN is another port, as the real one is another host, and supports ranges. The fields of
``HubServer`` inject failures.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LARGE = (".safetensors", ".bin", ".gguf")  # stored as LFS


@dataclass
class Asked:
    """One received request."""

    method: str
    path: str
    authorization: str | None
    range: str | None
    of_cdn: bool


@dataclass
class HubServer:
    """Repositories by name, each with a commit and a directory."""

    repositories: dict[str, tuple[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    tokens: dict[str, set[str]] = field(default_factory=dict)  # token → accessible repositories
    statuses: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # of the next replies
    cdn_statuses: list[int] = field(default_factory=list)
    cut_after: dict[str, list[int]] = field(default_factory=dict)  # path → bytes until a break
    hold_after: dict[str, int] = field(default_factory=dict)  # path → bytes until ``go``
    ranges: bool = True  # True if the CDN supports them
    wrong: Counter[str] = field(default_factory=Counter)  # path → wrong replies
    go: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    cdn_url: str = ""

    def add(self, name: str, commit: str, folder: Path) -> None:
        self.repositories[name] = (commit, folder)

    def downloads(self, path: str) -> list[Asked]:
        """Requests for the content of ``path``."""
        return [
            request
            for request in self.asked
            if request.method == "GET"
            and request.path.endswith(path)
            and "/resolve/" not in request.path
        ]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def blob_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def serving(hub: HubServer) -> Iterator[HubServer]:
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, of_cdn=of)) for of in (0, 1)]
    hub.url, hub.cdn_url = (
        f"http://127.0.0.1:{http_server.server_port}" for http_server in servers
    )
    threads = [
        threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True)
        for http_server in servers
    ]
    for server_thread in threads:
        server_thread.start()
    try:
        yield hub
    finally:
        hub.go.set()
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(hub: HubServer, *, of_cdn: int) -> type[BaseHTTPRequestHandler]:
    class Handler(_Cdn if of_cdn else _Api):
        server_hub = hub
        protocol_version = "HTTP/1.1"

    return Handler


class _Base(BaseHTTPRequestHandler):
    server_hub: HubServer
    of_cdn = False

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def _note(self) -> None:
        token = self.headers.get("Authorization")
        request = Asked(self.command, self.path, token, self.headers.get("Range"), self.of_cdn)
        self.server_hub.asked.append(request)

    def _say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, path: str, content: bytes, **headers: str) -> None:
        """Send a file, with the injected failures."""
        hub = self.server_hub
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if match and hub.ranges:
            start = int(match[1])
        if start > len(content):
            self._say(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if hub.wrong[path] > 0:
            hub.wrong[path] -= 1
            content = bytes(len(content))
        body = content[start:]
        if cuts := hub.cut_after.get(path):
            self.wfile.write(body[: cuts.pop(0)])
            self.close_connection = True
            return
        if path in hub.hold_after:
            self.wfile.write(body[: hub.hold_after[path]])
            self.wfile.flush()
            body = body[hub.hold_after[path] :]
            hub.held.set()
            hub.go.wait()
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True


class _Api(_Base):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._note()
        if self.server_hub.statuses:
            status, headers = self.server_hub.statuses.pop(0)
            self._say(status, **headers)
            return
        url = urlsplit(self.path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(\w+)", url.path):
            if folder := self._folder(match[1], match[2]):
                self._list(match[1], self.server_hub.repositories[match[1]][0], folder)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", url.path):
            if not self._may(match[1]):
                return
            if folder := self._folder(match[1], match[2]):
                self._resolve(folder, *match.groups())
        else:
            self._say(404)

    def _folder(self, name: str, commit: str) -> Path | None:
        # As in the real hub, a forbidden repository looks like a missing one to an unknown caller.
        if name not in self.server_hub.repositories:
            self._say(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        known, folder = self.server_hub.repositories[name]
        if commit not in (known, "main"):
            self._say(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return None
        return folder

    def _may(self, name: str) -> bool:
        hub = self.server_hub
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            message = "Invalid credentials in Authorization header"
            self._say(401, X_Error_Message=message)
            return False
        if name in hub.gated and name not in hub.tokens.get(token, ()):
            self._say(403 if token else 401, X_Error_Code="GatedRepo", X_Error_Message="Restricted")
            return False
        return True

    def _list(self, name: str, commit: str, folder: Path) -> None:
        siblings: list[dict[str, Any]] = []
        for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
            sibling: dict[str, Any] = {
                "rfilename": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "blobId": blob_id(path),
            }
            if path.suffix in LARGE:
                sibling["lfs"] = {
                    "sha256": sha256(path),
                    "size": path.stat().st_size,
                    "pointerSize": 134,
                }
            siblings.append(sibling)
        body = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        self._say(200, json.dumps(body).encode(), Content_Type="application/json")

    def _resolve(self, folder: Path, name: str, commit: str, path: str) -> None:
        file = folder / path
        if not file.is_file():
            self._say(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        elif file.suffix in LARGE:
            self._say(
                302,
                Location=f"{self.server_hub.cdn_url}/cdn/{name}/{path}",
                X_Repo_Commit=commit,
                X_Linked_Etag=f'"{sha256(file)}"',
                X_Linked_Size=str(file.stat().st_size),
            )
        else:
            etag = f'"{blob_id(file)}"'
            self._send_file(path, file.read_bytes(), X_Repo_Commit=commit, ETag=etag)


class _Cdn(_Base):
    of_cdn = True

    def do_GET(self) -> None:
        self._note()
        if self.server_hub.cdn_statuses:
            self._say(self.server_hub.cdn_statuses.pop(0))
            return
        _, _, owner, name, path = self.path.split("/", 4)
        folder = self.server_hub.repositories[f"{owner}/{name}"][1]
        self._send_file(path, (folder / path).read_bytes(), ETag=f'"{sha256(folder / path)}"')
