"""Files of an app's requests at URLs of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from darkroom.calls import Call, context_of
from darkroom.fal import local_files
from darkroom.fal.local_files import LocalFiles, Store, UnknownFile, named_files


@pytest.fixture
def files() -> Iterator[LocalFiles]:
    server = LocalFiles()
    server.start()
    yield server
    server.close()


def read(url: str, asked: str = "", method: str = "GET") -> tuple[int, bytes, str | None]:
    headers = {"Range": asked} if asked else {}
    request = Request(url, headers=headers, method=method)  # noqa: S310
    try:
        with urlopen(request) as answer:  # noqa: S310
            return answer.status, answer.read(), answer.headers["Content-Range"]
    except HTTPError as error:
        with error:
            return error.code, b"", error.headers["Content-Range"]


def test_an_input_has_urls_that_the_app_can_read(files: LocalFiles, tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    path.write_bytes(b"0123456789")
    arguments = {"image": {"url": {"$file": str(path)}}, "urls": [{"$file": str(path)}], "n": 1}
    readable = files.with_urls(arguments)
    (url,) = readable["urls"]
    assert readable["n"] == 1
    assert read(readable["image"]["url"]) == (200, b"0123456789", None)
    assert read(url, "bytes=2-4") == (206, b"234", "bytes 2-4/10")
    assert read(url, "bytes=-3") == (206, b"789", "bytes 7-9/10")
    assert read(url, "bytes=8-") == (206, b"89", "bytes 8-9/10")
    assert read(url, "bytes=20-") == (416, b"", "bytes */10")
    assert read(url, method="HEAD") == (200, b"", None)
    assert read(url.rpartition("/")[0] + "/other.png")[0] == 404


def test_a_file_of_an_output_has_its_path_and_its_facts(files: LocalFiles, tmp_path: Path) -> None:
    call = Call(request_id="r", folder=tmp_path / "r")

    def make() -> dict[str, object]:
        data = SimpleNamespace(data=b"png", content_type="image/png", file_name="../../x.png")
        url = Store(files).save(data)
        file = {"url": url, "content_type": "image/jpeg", "file_name": "x.png", "width": None}
        return files.with_paths({"image": file, "link": url, "other": {"url": "https://a/b"}})

    output = context_of(call).run(make)
    image, link = output["image"], output["link"]
    assert image == {
        "file_name": "x.png",
        "$file": image["$file"],
        "media_type": "image/jpeg",
    }
    assert link == {"$file": image["$file"], "media_type": "image/png", "$as": "url"}
    assert Path(image["$file"]).is_relative_to(tmp_path / "r")
    assert output["other"] == {"url": "https://a/b"}
    assert named_files(output) == {"files": [("image",), ("link",)]}
    assert named_files({"echo": {"$file": "/etc/hostname"}}) == {}, "it only looks like a file"


def test_a_file_that_a_thread_of_the_app_made_is_linked_to_the_request(
    files: LocalFiles, tmp_path: Path
) -> None:
    source = tmp_path / "made.txt"
    source.write_text("made")
    url, _ = Store(files).save_file(source, "text/plain")
    source.unlink()
    call = Call(request_id="r", folder=tmp_path / "r")
    file = context_of(call).run(files.with_paths, url)
    assert Path(file["$file"]).is_relative_to(tmp_path / "r")
    assert Path(file["$file"]).read_text() == "made"


def test_a_url_may_be_given_before_its_content(files: LocalFiles) -> None:
    pending = Store(files).reserve("later.txt", "text/plain")
    assert read(pending.url)[0] == 404
    pending.complete(b"now")
    assert read(pending.url)[1] == b"now"
    pending.abort()
    assert read(pending.url)[0] == 404


def test_a_file_of_an_ended_request_is_refused(files: LocalFiles, tmp_path: Path) -> None:
    call = Call(request_id="r", folder=tmp_path / "r")
    data = SimpleNamespace(data=b"1", content_type="text/plain", file_name="x.txt")
    url = context_of(call).run(Store(files).save, data)
    files.forget("r")
    with pytest.raises(UnknownFile):
        files.with_paths({"url": url})


def test_files_without_a_request_do_not_pile_up(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_files, "MAX_STRAYS", 2)
    data = SimpleNamespace(data=b"1", content_type="text/plain", file_name="x.txt")
    urls = [Store(files).save(data) for _ in range(4)]
    assert [read(url)[0] for url in urls] == [404, 404, 200, 200]
