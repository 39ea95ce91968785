"""Files of a request that an executor runs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter
from deployments.executors import files
from deployments.executors.base import MadeFile
from deployments.executors.files import RequestFiles
from deployments.transfer.uploader import Backoff, Uploader
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import InvalidInput, MarkMissing, PipelineFailed
from serve_app.domain.lease import Lease, LeaseKey
from serve_app.domain.media.marking import is_marked
from serve_app.domain.ports import FileSigner
from serve_app.domain.progress import Progress, Stage
from serve_app.domain.request import Priority
from serve_app.telemetry.clock import SystemClock
from tests.deployments.executors.rig import FakeAppSource
from tests.deployments.storage import HttpStorage
from tests.deployments.web import Web

FILE = {"type": "string", "format": "uri", "x-darkroom-file": "image"}


class Tickets(FakeAppSource):
    """Ingress that gives tickets of ``storage``, and nothing else."""

    thumbnails = False

    def __init__(self, storage: HttpStorage) -> None:
        super().__init__(storage)
        self._storage = storage

    async def file_ticket(
        self, lease_key: LeaseKey, tenant: str, number: int, media_type: str
    ) -> UploadTicket:
        del tenant
        key = f"r/{lease_key.request_id}/{number}"
        small = self._storage.ticket(f"{key}.webp", "image/webp") if self.thumbnails else None
        return replace(self._storage.ticket(key, media_type), thumbnail=small)


class Desk:
    """Files of a request, with a web and a storage."""

    def __init__(self, scratch: Path) -> None:
        self.web, self.storage = Web(), HttpStorage()
        self.uploader = Uploader(
            self.storage.client(),
            SystemClock(),
            Backoff(Random(1)),  # noqa: S311
            5.0,
        )
        self.fetcher = self.web.fetcher()
        self.scratch = scratch
        self.progress: list[Progress] = []
        self.signer: FileSigner | None = None
        self.thumbnails = False

    def files(
        self,
        name: str = "one",
        schema: Any = None,
        marking: str = "off",
        certificates: str = "",
        described: bool = False,
        **arguments: Any,
    ) -> RequestFiles:
        endpoint = Endpoint(
            "apps/a", "python", Weights("a"), "json", options={"input_schema": schema or {}}
        )
        lease = Lease(name, 1, 60.0, endpoint, arguments, (), Priority.NORMAL, marking=marking)
        lease = replace(lease, certificates=certificates, describe_files=described)
        folder = self.scratch / f"{name}-1"
        tickets = Tickets(self.storage)
        tickets.thumbnails = self.thumbnails
        return RequestFiles(
            *(lease, folder, self.fetcher, self.uploader, tickets), signer=self.signer
        )

    async def store(self, output: Any, name: str = "one") -> Any:
        return await self.files(name).store(output, self.progress.append)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path / "scratch")
    desk.scratch.mkdir()
    (desk.scratch / "one-1").mkdir()
    (desk.scratch / "two-1").mkdir()
    yield desk
    await desk.uploader.aclose()
    await desk.fetcher.aclose()


def write_file(folder: Path, name: str, content: bytes = b"content", **facts: Any) -> MadeFile:
    """File as an executor names it."""
    path = folder / name
    path.write_bytes(content)
    return MadeFile({"$file": str(path), "media_type": "image/png", **facts})


def film(path: Path) -> None:
    """Video of two frames of 64 x 32 pixels."""
    form = VideoForm("video/mp4", 64, 32, Fraction(8), 2, "maximum", "fast")
    with VideoWriter(path, form) as writer:
        for _ in range(2):
            writer.write(np.zeros((32, 64, 3), np.uint8))


LAYERS = {"type": "object", "properties": {"layers": {"type": "array", "items": FILE}}}


async def test_files_of_an_input_are_fetched_to_the_folder_of_the_request(desk: Desk) -> None:
    for name in "ab":
        desk.web.answers[f"example.com/{name}.png"] = httpx2.Response(200, content=name.encode())
    layers = ["https://example.com/a.png?x=1.html", "https://example.com/b.png"]
    layers.append("data:text/plain,c")
    request = desk.files("new", LAYERS, layers=layers, prompt="https://example.com/no.png")
    assert request.are_remote
    fetched = await request.fetch(desk.progress.append)
    assert fetched["prompt"] == "https://example.com/no.png"
    paths = [Path(layer["$file"]) for layer in fetched["layers"]]
    assert [path.name for path in paths] == ["input-0.png", "input-1.png", "input-2.txt"]
    assert [await asyncio.to_thread(path.read_bytes) for path in paths] == [b"a", b"b", b"c"]
    assert {path.parent for path in paths} == {desk.scratch / "new-1"}
    assert [progress.stage for progress in desk.progress] == [Stage.FETCHING] * 3
    await request.remove()
    assert not await asyncio.to_thread((desk.scratch / "new-1").exists)
    await request.remove()


async def test_a_file_that_cannot_be_fetched_names_its_field(desk: Desk) -> None:
    request = desk.files(schema=LAYERS, layers=["data:,a", "https://example.com/gone.png"])
    with pytest.raises(InvalidInput) as raised:
        await request.fetch(desk.progress.append)
    assert raised.value.problems[0].loc == ("body", "layers", 1)


async def test_an_input_cannot_name_a_file_of_the_machine(desk: Desk) -> None:
    request = desk.files(schema=LAYERS, options=[{"a": {"$file": "/etc/passwd"}}])
    with pytest.raises(InvalidInput) as raised:
        await request.fetch(desk.progress.append)
    assert raised.value.problems[0].loc == ("body", "options", 0, "a", "$file")


async def test_an_input_with_too_many_files_is_refused_before_any_is_fetched(desk: Desk) -> None:
    request = desk.files(schema=LAYERS, layers=["https://example.com/a.png"] * 65)
    with pytest.raises(InvalidInput, match="65 files; at most 64 are possible") as raised:
        await request.fetch(desk.progress.append)
    assert raised.value.problems[0].loc == ("body", "layers", 64)
    assert desk.web.requests == []


async def test_files_of_an_output_are_stored(desk: Desk) -> None:
    own = desk.scratch / "one-1"
    output, artifacts = await desk.store(
        {
            "images": [write_file(own, "a.png", b"a", width=4, height=3, seed=7)],
            "deep": {"also": write_file(own, "b.png", b"bb")},
            "text": "a",
        }
    )
    assert output == {
        "images": [
            {
                "artifact": "r/one/0",
                "content_type": "image/png",
                "width": 4,
                "height": 3,
                "seed": 7,
            }
        ],
        "deep": {"also": {"artifact": "r/one/1", "content_type": "image/png"}},
        "text": "a",
    }
    assert desk.storage.objects == {"r/one/0": b"a", "r/one/1": b"bb"}
    assert [(artifact.key, artifact.size, artifact.width) for artifact in artifacts] == [
        ("r/one/0", 1, 4),
        ("r/one/1", 2, None),
    ]


def write_picture(folder: Path, name: str, kind: str = "PNG") -> MadeFile:
    """Picture of 540 x 270 pixels as an executor names it."""
    content = BytesIO()
    Image.new("RGB", (540, 270), (200, 30, 40)).save(content, kind)
    return write_file(folder, name, content.getvalue(), width=540, height=270)


@pytest.mark.parametrize("generated", [True, False])
async def test_a_picture_has_a_thumbnail_with_the_mark_if_a_model_made_it(
    desk: Desk, generated: bool
) -> None:
    desk.thumbnails = True
    request = desk.files(marking="on")
    file = MadeFile({**write_picture(desk.scratch / "one-1", "a.png"), "generated": generated})
    _, (artifact,) = await request.store({"image": file}, desk.progress.append)
    small = artifact.thumbnail
    assert small is not None
    assert (small.key, small.media_type) == ("r/one/0.webp", "image/webp")
    assert (small.width, small.height) == (512, 256)
    content = desk.storage.objects[small.key]
    assert small.size == len(content)
    assert is_marked(content) is generated
    with Image.open(BytesIO(content)) as shown:
        assert shown.size == (512, 256)
    await request.discard()
    assert desk.storage.objects == {}


async def test_a_thumbnail_shows_what_is_transparent_as_white(desk: Desk) -> None:
    desk.thumbnails = True
    content = BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(content, "PNG")
    file = write_file(desk.scratch / "one-1", "a.png", content.getvalue())
    _, (artifact,) = await desk.store({"image": file})
    with Image.open(BytesIO(desk.storage.objects[artifact.thumbnail.key])) as shown:
        assert shown.convert("L").getextrema()[0] > 250


SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
LIST = b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n"


def large(folder: Path) -> MadeFile:
    """Small file of a picture of 56 million pixels."""
    content = BytesIO()
    Image.new("1", (8000, 7000)).save(content, "PNG")
    return write_file(folder, "a.png", content.getvalue())


@pytest.mark.parametrize("kind", ["content", "EPS", "SDP", "list", "empty", "large"])
async def test_a_file_that_is_not_to_be_shown_is_stored_without_a_thumbnail(
    desk: Desk, kind: str
) -> None:
    desk.thumbnails = True
    own = desk.scratch / "one-1"
    file = {
        "content": lambda: write_file(own, "a.png"),
        "EPS": lambda: write_picture(own, "a.png", "EPS"),
        "SDP": lambda: write_file(own, "a.mp4", SDP, media_type="video/mp4"),
        "list": lambda: write_file(own, "a.m3u8", LIST, media_type="video/mp4"),
        "empty": lambda: write_file(own, "a.mp4", b"", media_type="video/mp4"),
        "large": lambda: large(own),
    }[kind]()
    _, (artifact,) = await desk.store({"image": file})
    assert artifact.thumbnail is None
    assert list(desk.storage.objects) == [artifact.key]


async def test_a_result_does_not_wait_for_its_thumbnail(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = threading.Event()
    monkeypatch.setattr(files, "thumbnail_of", lambda *_, **__: drawing.wait())
    monkeypatch.setattr(files, "THUMBNAIL_WAIT_S", 0.1)
    desk.thumbnails = True
    try:
        _, (artifact,) = await desk.store({"image": write_picture(desk.scratch / "one-1", "a.png")})
    finally:
        drawing.set()
    assert artifact.thumbnail is None
    assert list(desk.storage.objects) == [artifact.key]


DRAW = """
import sys
from pathlib import Path
from deployments.executors.files import MediaFile, UploadTicket, thumbnail_of
for path, media_type in zip(sys.argv[1:], ("image/png", "video/mp4")):
    file = MediaFile(UploadTicket("a", "", media_type, 0), Path(path))
    print(thumbnail_of(file, marked=True)[1:])
print("torch" in sys.modules)
"""


@pytest.mark.long
async def test_thumbnails_of_images_and_videos_need_no_torch(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "a.png")
    film(tmp_path / "a.mp4")
    paths = str(tmp_path / "a.png"), str(tmp_path / "a.mp4")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DRAW, *paths), stdout=subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert printed.decode().split("\n") == ["(64, 32)", "(64, 32)", "False", ""]


async def test_an_app_decides_neither_about_the_key_nor_about_the_url_of_a_file(
    desk: Desk,
) -> None:
    facts: Any = {"artifact": "r/other/0", "url": "https://other", "content_type": "text/html"}
    file = write_file(desk.scratch / "one-1", "a.png", **facts)
    output, _ = await desk.store({"image": file})
    assert output == {"image": {"artifact": "r/one/0", "content_type": "image/png"}}


async def test_a_text_of_an_app_is_never_shown_as_a_stored_file(desk: Desk) -> None:
    with pytest.raises(PipelineFailed, match="a field `artifact`, whose name is reserved"):
        await desk.store({"echo": [{"artifact": "r/other/0"}]})
    with pytest.raises(PipelineFailed, match="a field `artifact`, whose name is reserved"):
        await desk.store({"echo": [{"artifact": "r/other/0", "$file": "/etc/hostname"}]})


async def test_an_object_that_only_looks_like_a_file_is_plain_data(
    desk: Desk, tmp_path: Path
) -> None:
    own = desk.scratch / "one-1"
    for secret in (write_file(tmp_path, "token"), write_file(own, "token")):
        echo = {"deep": [dict(secret), {"$as": "url"}, {**secret, "$as": "url"}]}
        output, (artifact,) = await desk.store({"echo": echo, "image": write_file(own, "a.png")})
        assert output["echo"] == echo
        assert output["image"]["artifact"] == artifact.key
        shown = await desk.files().inline({"echo": echo, "image": write_file(own, "a.png")})
        assert shown["echo"] == echo
        assert shown["image"]["url"].startswith("data:image/png;base64,")


async def test_a_file_of_the_apps_own_code_may_be_delivered(desk: Desk, tmp_path: Path) -> None:
    await desk.store({"image": write_file(tmp_path, "static.png")})
    assert desk.storage.objects == {"r/one/0": b"content"}


@pytest.mark.parametrize("way", ["path", "dots", "link", "linked folder", "hard to see"])
async def test_a_file_of_another_request_is_not_delivered(desk: Desk, way: str) -> None:
    own, other = desk.scratch / "one-1", desk.scratch / "two-1"
    write_file(other, "secret.png")
    path = {
        "path": other / "secret.png",
        "dots": own / ".." / "two-1" / "secret.png",
        "link": own / "link.png",
        "linked folder": own / "folder" / "secret.png",
        "hard to see": desk.scratch / "loose.png",
    }[way]
    write_file(desk.scratch, "loose.png")
    if way == "link":
        path.symlink_to(other / "secret.png")
    if way == "linked folder":
        path.parent.symlink_to(other)
    with pytest.raises(PipelineFailed, match="which belongs to another request"):
        await desk.store({"image": MadeFile({"$file": str(path)})})
    assert desk.storage.objects == {}


@pytest.mark.parametrize(
    ("name", "why"),
    [("gone.png", "not there"), ("link", "not there"), ("folder", "no file"), ("pipe", "no file")],
)
async def test_a_file_that_is_not_there_or_none_is_an_error_with_its_name(
    desk: Desk, name: str, why: str
) -> None:
    own = desk.scratch / "one-1"
    (own / "folder").mkdir()
    (own / "link").symlink_to(own / "nowhere")
    os.mkfifo(own / "pipe")
    with pytest.raises(PipelineFailed, match=f"names the file {name}, which is {why}"):
        await desk.store({"image": MadeFile({"$file": str(own / name)})})


async def test_what_the_system_says_of_the_replica_is_not_delivered(desk: Desk) -> None:
    with pytest.raises(PipelineFailed, match="no file of a disk"):
        await desk.store({"image": MadeFile({"$file": "/proc/self/environ"})})
    assert desk.storage.objects == {}


async def test_a_link_within_the_folder_of_the_request_is_followed(desk: Desk) -> None:
    own = desk.scratch / "one-1"
    write_file(own, "a.png", b"linked")
    (own / "link.png").symlink_to("a.png")
    await desk.store({"image": MadeFile({"$file": str(own / "link.png")})})
    assert desk.storage.objects == {"r/one/0": b"linked"}


async def test_an_output_that_could_not_be_handed_in_is_refused(desk: Desk) -> None:
    deep: list[Any] = []
    for _ in range(490):  # it is parsed, and cannot be pickled
        deep = [deep]
    with pytest.raises(PipelineFailed, match="more than 100 lists and objects in each other"):
        await desk.store({"output": deep})


async def test_an_output_with_too_many_files_is_refused(desk: Desk) -> None:
    file = write_file(desk.scratch / "one-1", "a.png")
    with pytest.raises(PipelineFailed, match="The output has 65 files; at most 64 may be"):
        await desk.store({"images": [file] * (files.MAX_FILES + 1)})


async def test_stored_files_of_an_attempt_that_fails_are_deleted(desk: Desk) -> None:
    own = desk.scratch / "one-1"
    request = desk.files(marking="required")
    output = {"a": write_file(own, "a.png", generated=False), "b": write_file(own, "b.png")}
    with pytest.raises(MarkMissing):
        await request.store(output, desk.progress.append)
    assert list(desk.storage.objects) == ["r/one/0"]
    await request.discard()
    assert desk.storage.objects == {}
