"""Preview file of a running request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serve_app.cli.connection.client import ServerAway
from serve_app.cli.generation.progress import PreviewFile


def running(preview: str | None) -> dict[str, Any]:
    return {"status": "IN_PROGRESS", "darkroom": {"stage": "denoising", "preview": preview}}


def test_each_new_preview_is_fetched_once_and_written(tmp_path: Path) -> None:
    images = {"/p": None, "/p?step=2": b"two", "/p?step=4": b"four"}
    fetched: list[str] = []

    def fetch(url: str) -> bytes | None:
        fetched.append(url)
        return images[url]

    path = tmp_path / "now.jpg"
    file = PreviewFile(fetch, path)
    file.on_status({"status": "IN_QUEUE", "darkroom": {"reason": "busy"}})
    file.on_status(running(None))
    file.on_status(running("/p"))
    assert not path.exists()
    for url in ("/p?step=2", "/p?step=2", "/p?step=4"):
        file.on_status(running(url))
        assert path.read_bytes() == images[url]
    file.on_status({"status": "COMPLETED"})
    assert fetched == ["/p", "/p?step=2", "/p?step=4"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_preview_that_a_restart_lost_is_fetched_at_the_next_status(tmp_path: Path) -> None:
    answers: list[bytes | None] = [None, b"one"]

    def fetch(_: str) -> bytes | None:
        if (image := answers.pop(0)) is None:
            raise ServerAway("Nothing answers.")
        return image

    path = tmp_path / "now.jpg"
    file = PreviewFile(fetch, path)
    file.on_status(running("/p"))
    assert not path.exists()
    file.on_status(running("/p"))
    assert path.read_bytes() == b"one"
