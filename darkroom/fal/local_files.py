"""Files of an app's requests at URLs of this machine, because code for fal knows files by URL."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_urlsafe
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

from darkroom.calls import current, folder
from darkroom.media_types import DEFAULT_MEDIA_TYPE, type_of_name
from darkroom.reporting import files_of

PATH_KEY = "$file"
"""As in ``darkroom.files``, which needs a newer pydantic."""

TEXT_MARK = "$as"
"""Key that says that a file's URL stands alone in the output, where ``PATH_KEY`` is an object."""

MAX_STRAYS = 256
"""Files without a request that are kept, such as those that threads of the app have made, and
files of one session."""

CHUNK = 2**20

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class UnknownFile(Exception):
    """An output names a file of another request."""


@dataclass(frozen=True)
class LocalFile:
    """A file with a URL. ``of``: the request that it belongs to; empty: none."""

    path: Path
    media_type: str
    of: str = ""


class NamedFile(dict[str, Any]):
    """Object that stands for a file in an output. What an app has written itself is never one, also
    if it looks so."""


def named_files(output: Any) -> dict[str, Any]:
    """Field of a message with an output of ``LocalFiles.with_paths``, as ``files_of`` makes it."""
    return files_of(output, lambda fields: isinstance(fields, NamedFile))


class LocalFiles:
    """Files at unguessable URLs of a loopback port. Use on any thread.

    They are served by threads of their own, so that an app may read a URL while it blocks its event
    loop.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[str, LocalFile] = OrderedDict()
        self._bounded = {""}  # ids of sessions; and files without a request
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._strays: Path | None = None
        self.address = "127.0.0.1", 0

    def start(self) -> None:
        """Listen on a free port."""
        lookup = self._look_up

        class Handler(_Handler):
            find = staticmethod(lookup)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = "127.0.0.1", self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def base(self) -> str:
        """Beginning of all URLs."""
        host, port = self.address
        return f"http://{host}:{port}/"

    def keep_newest(self, of: str) -> None:
        """Keep only the newest ``MAX_STRAYS`` files of a request: a session, which makes files
        without end."""
        with self._lock:
            self._bounded.add(of)

    def offer(self, path: Path, media_type: str = "") -> str:
        """URL of a file of the current request."""
        call = current()
        known = media_type or type_of_name(path.name) or DEFAULT_MEDIA_TYPE
        file = LocalFile(path, known, call.request_id if call else "")
        url = f"{self.base}{token_urlsafe(16)}/{quote(path.name)}"
        with self._lock:
            self._files[url] = file
            if file.of in self._bounded:
                same = [address for address, entry in self._files.items() if entry.of == file.of]
                for old_url in same[:-MAX_STRAYS]:
                    gone = self._files.pop(old_url).path
                    gone.unlink(missing_ok=True)
                    with contextlib.suppress(OSError):  # has others
                        gone.parent.rmdir()
        return url

    def new(self, name: str) -> Path:
        """Path for a new file, below the folder of the current request."""
        parent = folder()
        if parent is None:
            with self._lock:
                self._strays = self._strays or Path(mkdtemp(prefix="files-"))
            parent = self._strays
        # A folder of its own, so that the file may have any name.
        return Path(mkdtemp(dir=parent)) / (Path(name).name or "file")

    def forget(self, of: str) -> None:
        """Forget the files of a request that has ended."""
        with self._lock:
            self._bounded.discard(of)
            for url in [address for address, file in self._files.items() if file.of == of]:
                del self._files[url]

    def with_urls(self, value: Any) -> Any:
        """Input with URLs in place of files."""
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            if isinstance(path := fields.get(PATH_KEY), str):
                return self.offer(Path(path), str(fields.get("media_type", "")))
            return {name: self.with_urls(field) for name, field in fields.items()}
        if isinstance(value, list):
            return [self.with_urls(item) for item in cast("list[Any]", value)]
        return value

    def with_paths(self, value: Any) -> Any:
        """Output with files in place of their URLs. ``UnknownFile``: it names one that has gone."""
        if isinstance(value, dict):
            fields = cast("dict[str, Any]", value)
            file = self._file_at(fields.get("url"))
            if file is None:
                return {name: self.with_paths(field) for name, field in fields.items()}
            facts = {name: field for name, field in fields.items() if field is not None}
            content_type = facts.pop("content_type", None)
            path = str(_within(file.path))
            del facts["url"]
            media_type = str(content_type or file.media_type)
            return NamedFile({**facts, PATH_KEY: path, "media_type": media_type})
        if isinstance(value, list):
            return [self.with_paths(item) for item in cast("list[Any]", value)]
        if (file := self._file_at(value)) is not None:
            path = str(_within(file.path))
            return NamedFile({PATH_KEY: path, "media_type": file.media_type, TEXT_MARK: "url"})
        return value

    def _file_at(self, url: Any) -> LocalFile | None:
        if not isinstance(url, str) or not url.startswith(self.base):
            return None
        file = self._look_up(url.removeprefix(self.base))
        if file is None or not file.path.is_file():
            raise UnknownFile(
                "The output names a file of an earlier request, which has gone. Make the file in "
                "each request again."
            )
        return file

    def _look_up(self, place: str) -> LocalFile | None:
        with self._lock:
            return self._files.get(self.base + place)


def _within(path: Path) -> Path:
    """The file, or a link to it in the folder of the current request, whose outputs lie there."""
    own = folder()
    if own is None or path.resolve().is_relative_to(own.resolve()):
        return path
    linked = Path(mkdtemp(dir=own)) / path.name
    try:
        os.link(path, linked)
    except OSError:  # another file system
        shutil.copyfile(path, linked)
    return linked


class Store:
    """Stands for fal's own stores in its toolkit: keeps files on this machine."""

    def __init__(self, files: LocalFiles) -> None:
        self._files = files

    def save(self, data: Any, *args: Any, **options: Any) -> str:
        """URL of the content of a ``FileData``."""
        del args, options
        path = self._files.new(str(data.file_name))
        path.write_bytes(data.data)
        return self._files.offer(path, str(data.content_type))

    def save_file(
        self, file_path: str | Path, content_type: str = "", *args: Any, **options: Any
    ) -> tuple[str, None]:
        """URL of a copy of a file, which the app may delete."""
        del args, options
        path = self._files.new(Path(file_path).name)
        shutil.copyfile(file_path, path)
        return self._files.offer(path, content_type), None

    def reserve(
        self, file_name: str, content_type: str, *args: Any, **options: Any
    ) -> SimpleNamespace:
        """URL of a file whose content comes later, in the form of fal's ``Reservation``."""
        del args, options
        path = self._files.new(file_name)

        def complete(content: bytes | Path) -> None:
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)

        url = self._files.offer(path, content_type)
        return SimpleNamespace(
            url=url,
            complete=complete,
            abort=lambda: path.unlink(missing_ok=True),
            cdn_signing_requested=False,
        )


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD, also for a range of bytes, which readers of videos ask for."""

    protocol_version = "HTTP/1.1"

    @staticmethod
    def find(place: str) -> LocalFile | None:
        raise NotImplementedError

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # the reader has seen enough
            self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: these are the app's own reads."""

    def _answer(self, *, body: bool) -> None:
        file = self.find(self.path.removeprefix("/").partition("?")[0])
        if file is None or not file.path.is_file():
            self._head(HTTPStatus.NOT_FOUND, {"Content-Length": "0"})
            return
        size = file.path.stat().st_size
        range_header = self.headers.get("Range", "")
        first, last = _range(range_header, size)
        if first > last and size:
            head = {"Content-Range": f"bytes */{size}", "Content-Length": "0"}
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, head)
            return
        length = last - first + 1
        head = {"Content-Type": file.media_type, "Accept-Ranges": "bytes"}
        head["Content-Length"] = str(length)
        if length != size:
            head["Content-Range"] = f"bytes {first}-{last}/{size}"
        self._head(HTTPStatus.OK if length == size else HTTPStatus.PARTIAL_CONTENT, head)
        if body:
            for chunk in _chunks(file.path, first, length):
                self.wfile.write(chunk)

    def _head(self, status: HTTPStatus, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _range(header: str, size: int) -> tuple[int, int]:
    """First and last byte that a header asks for; all of them if it is none."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or not any(match.groups()):
        return 0, size - 1
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


def _chunks(path: Path, first: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as opened:
        opened.seek(first)
        while length > 0 and (chunk := opened.read(min(CHUNK, length))):
            length -= len(chunk)
            yield chunk
