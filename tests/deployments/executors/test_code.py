"""Code of apps: checked, and unpacked once."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from deployments.executors import code
from deployments.executors.code import AppCode, unpack
from serve_app.domain.errors import AppNotStarted


def zip_files(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return written.getvalue()


GOOD = zip_files({"app.py": b"x = 1\n", "lib/more.py": b"y = 2\n"})


def refusal(content: bytes, folder: Path) -> str:
    with pytest.raises(AppNotStarted) as raised:
        unpack(content, folder)
    # Nothing is left: the next attempt begins anew.
    assert list(folder.parent.iterdir()) == []
    return str(raised.value)


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "apps" / "app"


def test_all_files_are_there(folder: Path) -> None:
    unpack(GOOD, folder)
    assert (folder / "app.py").read_bytes() == b"x = 1\n"
    assert (folder / "lib" / "more.py").read_bytes() == b"y = 2\n"
    assert [entry.name for entry in folder.parent.iterdir()] == ["app"]


@pytest.mark.parametrize("name", ["../out.py", "/srv/out.py", "a/../../out.py", "a\\..\\out.py"])
def test_a_file_outside_of_the_folder_is_refused(folder: Path, name: str) -> None:
    message = refusal(zip_files({name: b"x"}), folder)
    assert message == f"The code of the app has a file outside of it: {name}"
    assert not (folder.parent.parent / "out.py").exists()


def test_a_link_becomes_a_file_with_its_text(folder: Path) -> None:
    link = zipfile.ZipInfo("link.py")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    unpack(written.getvalue(), folder)
    assert not (folder / "link.py").is_symlink()
    assert (folder / "link.py").read_text() == "/etc/passwd"


def test_a_bomb_is_refused_before_it_is_unpacked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code, "MAX_UNPACKED_BYTES", 2**20)
    bomb = zip_files({"zeros": bytes(2**20 + 1)})
    assert len(bomb) < 5000
    assert "at most 2000 files and 1 MiB" in refusal(bomb, folder)


def test_a_bomb_that_lies_about_its_size_is_refused(folder: Path) -> None:
    bomb = bytearray(zip_files({"zeros": bytes(2**20)}))
    true_size = (2**20).to_bytes(4, "little")
    for _ in range(2):  # in front of the file, and in the directory at the end
        place = bomb.index(true_size)
        bomb[place : place + 4] = (10).to_bytes(4, "little")
    assert "is no usable zip file: " in refusal(bytes(bomb), folder)


def test_too_many_files_are_refused(folder: Path) -> None:
    many = zip_files({f"{number}.py": b"" for number in range(code.MAX_FILES + 1)})
    assert "at most 2000 files" in refusal(many, folder)


def corrupt_file(content: bytes) -> bytes:
    """Content whose first file is not what its checksum says."""
    place = content.index(b"app.py") + len(b"app.py") + 2
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


ENCRYPTED = bytearray(zip_files({"app.py": b"x"}, zipfile.ZIP_STORED))
for _place in (6, ENCRYPTED.index(b"PK\x01\x02") + 8):
    ENCRYPTED[_place] |= 1
UNKNOWN = bytearray(zip_files({"app.py": b"x"}, zipfile.ZIP_STORED))
for _place in (8, UNKNOWN.index(b"PK\x01\x02") + 10):
    UNKNOWN[_place] = 99


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"no zip",
        GOOD[:-30],
        GOOD[40:],
        corrupt_file(GOOD),
        bytes(ENCRYPTED),
        bytes(UNKNOWN),
    ],
    ids=["empty", "begun", "text", "cut", "headless", "flipped", "encrypted", "compression"],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(folder: Path, content: bytes) -> None:
    assert refusal(content, folder).startswith("The code of the app is no usable zip file: ")


def test_a_file_and_a_folder_of_one_name_are_refused(folder: Path) -> None:
    for names in (["a", "a/b.py"], ["a/b.py", "a"]):
        assert "a file and a folder of one name" in refusal(
            zip_files(dict.fromkeys(names, b"x")), folder
        )


def test_a_name_that_no_disk_takes_is_refused(folder: Path) -> None:
    assert "more than 200 bytes" in refusal(zip_files({"ä" * 150 + ".py": b"x"}), folder)


# By digest.


class Source:
    """Ingress with bundles, whose answers wait until all of ``together`` ask."""

    def __init__(self, content: bytes, together: int = 1) -> None:
        self.digest = hashlib.sha256(content).hexdigest()
        self.asked = 0
        self._content = content
        self._all = asyncio.Barrier(together)

    async def fetch(self, digest: str) -> bytes:
        self.asked += 1
        await self._all.wait()
        return self._content


async def test_code_is_fetched_and_unpacked_once(tmp_path: Path) -> None:
    source = Source(GOOD)
    first = await AppCode(tmp_path, source.fetch).folder(source.digest)
    assert await AppCode(tmp_path, source.fetch).folder(source.digest) == first
    assert (source.asked, (first / "app.py").is_file()) == (1, True)


async def test_two_replicas_that_unpack_at_once_get_the_same_folder(tmp_path: Path) -> None:
    source = Source(GOOD, together=2)
    replicas = [AppCode(tmp_path, source.fetch) for _ in range(2)]
    one, two = await asyncio.gather(*(replica.folder(source.digest) for replica in replicas))
    assert one == two
    assert names_in(tmp_path) == [source.digest]
    assert (one / "lib" / "more.py").is_file()


async def test_code_that_is_not_what_its_digest_says_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppNotStarted, match=r"The code of the app arrived damaged\."):
        await AppCode(tmp_path, Source(GOOD).fetch).folder("0" * 64)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("digest", ["", "..", "../other", "A" * 64, "a" * 63])
async def test_a_digest_never_leads_to_another_folder(tmp_path: Path, digest: str) -> None:
    source = Source(GOOD)
    with pytest.raises(AppNotStarted, match="The code of the app has no SHA-256"):
        await AppCode(tmp_path / "apps", source.fetch).folder(digest)
    assert source.asked == 0
