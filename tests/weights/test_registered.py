"""Registered files on a node, and folders in which they replace files of a base."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from safetensors.numpy import save

from serve_app.domain.errors import StorageUnavailable, Unavailable, WeightsUnavailable
from weights import eviction
from weights.registered import FOLDER, RegisteredFiles

ONE = save({"a": np.zeros(2)})
OTHER = save({"b": np.ones(2)})
DIGEST, OTHERS = (hashlib.sha256(content).hexdigest() for content in (ONE, OTHER))


@contextmanager
def storage(**contents: bytes) -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            name = self.path.strip("/")
            if name.startswith("busy/"):  # for the first requests
                _, times, name = name.split("/")
                if len(requests) <= int(times):
                    self.send_error(503)
                    return
            body = contents.get(name)
            self.send_response(200 if body is not None else 404)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_is_fetched_once_and_compared_with_its_digest(tmp_path: Path) -> None:
    with storage(one=ONE) as (url, requests):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/one")
        assert files.find(DIGEST) is None
        path = files.fetch(DIGEST)
        assert path.read_bytes() == ONE
        assert files.fetch(DIGEST) == files.find(DIGEST) == path
    assert requests == ["/one"]


def test_a_damaged_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with storage(one=OTHER) as (url, _):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/one")
        with pytest.raises(WeightsUnavailable, match="damaged"):
            files.fetch(DIGEST)
    kept = [path.suffix for path in (tmp_path / FOLDER).rglob("*") if path.is_file()]
    assert kept == [".lock"]


def test_a_file_that_is_gone_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match="Register it again"):
        RegisteredFiles(tmp_path, lambda _: "").fetch(DIGEST)
    with storage() as (url, _), pytest.raises(WeightsUnavailable, match="cannot be read"):
        RegisteredFiles(tmp_path, lambda _: f"{url}/one").fetch(DIGEST)


def test_the_use_of_a_file_does_not_look_like_a_change_of_it(tmp_path: Path) -> None:
    with storage(one=ONE) as (url, _):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/one")
        path = files.fetch(DIGEST)
    os.utime(path, ns=(1, 1))
    assert files.find(DIGEST) == files.fetch(DIGEST) == path
    assert path.stat().st_mtime_ns == 1
    assert path.stat().st_atime_ns > 1


def test_the_longest_unused_file_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {DIGEST: ONE, OTHERS: OTHER, "c" * 64: ONE}
    with storage(**contents) as (url, _):
        files = RegisteredFiles(tmp_path, lambda digest: f"{url}/{digest}")
        for number, digest in enumerate((DIGEST, OTHERS), 1):
            os.utime(files.fetch(digest), ns=(number, number))
        files.find(DIGEST)  # the older one is used again
        room = iter((0, 2**40))
        monkeypatch.setattr(eviction, "free_bytes", lambda _: next(room, 2**40))
        with pytest.raises(WeightsUnavailable, match="damaged"):
            files.fetch("c" * 64)
    assert files.find(DIGEST) is not None
    assert files.find(OTHERS) is None


def test_a_storage_that_restarts_is_asked_again(tmp_path: Path) -> None:
    waits: list[float] = []
    with storage(one=ONE) as (url, requests):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/busy/2/one", waits.append)
        assert files.fetch(DIGEST).read_bytes() == ONE
    assert len(requests) == 3
    assert waits == [1.0, 2.0]


def test_a_storage_that_stays_away_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with storage() as (url, requests):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/busy/9/one", lambda _: None)
        with pytest.raises(StorageUnavailable, match="4 tries"):
            files.fetch(DIGEST)
    assert len(requests) == 4
    files = RegisteredFiles(tmp_path, lambda _: f"{url}/one", lambda _: None)
    with pytest.raises(StorageUnavailable) as caught:
        files.fetch(DIGEST)  # nothing listens there any more
    assert caught.value.retryable


@pytest.mark.parametrize(
    "error", [TimeoutError(), RuntimeError("the actor died"), Unavailable("no")]
)
def test_an_ingress_that_does_not_answer_is_no_fault_of_the_file(
    tmp_path: Path, error: Exception
) -> None:
    def locate(digest: str) -> str:
        raise error

    with pytest.raises(StorageUnavailable, match="ingress") as caught:
        RegisteredFiles(tmp_path, locate).fetch(DIGEST)
    assert caught.value.retryable


def pipeline(folder: Path) -> Path:
    for name in ("model_index.json", "unet/config.json", "vae/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    for name in ("unet", "vae"):
        (folder / name / "diffusion_pytorch_model.fp16.safetensors").write_bytes(ONE)
    return folder


def test_replaced_files_stand_in_a_folder_of_links(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base")
    with storage(other=OTHER) as (url, _):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/other")
        replaced = {"unet": {"diffusion_pytorch_model.safetensors": OTHERS}}
        folder = files.compose_folder(base, replaced)
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert paths == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    assert all(path.is_symlink() for path in folder.rglob("*") if path.is_file())
    shared = folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    assert shared.samefile(base / "vae" / shared.name)
    assert files.compose_folder(base, replaced) == folder


def test_several_files_of_a_component_get_an_index(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base")
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    contents = {DIGEST: ONE, OTHERS: OTHER}
    with storage(**contents) as (url, _):
        files = RegisteredFiles(tmp_path, lambda digest: f"{url}/{digest}")
        digests = {"unet": dict(zip(names, (DIGEST, OTHERS), strict=True))}
        folder = files.compose_folder(base, digests)
    index = json.loads(
        (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").read_text()
    )
    assert index["weight_map"] == {"a": names[0], "b": names[1]}


def test_a_folder_whose_file_was_evicted_is_made_again(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base")
    with storage(other=OTHER) as (url, requests):
        files = RegisteredFiles(tmp_path, lambda _: f"{url}/other")
        replaced = {"unet": {"diffusion_pytorch_model.safetensors": OTHERS}}
        folder = files.compose_folder(base, replaced)
        path = files.find(OTHERS)
        assert path is not None
        path.unlink()
        assert files.compose_folder(base, replaced) == folder
        assert (folder / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == OTHER
    assert len(requests) == 2
