"""The ingress's memory for an upload does not depend on the upload's size."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fal_client
import fal_client.client
import httpx
import pytest

from tests.wire.served import Address
from tests.wire.test_fal_python_uploads import GLOBALS, MIB, sync_client

pytestmark = [
    pytest.mark.long,
    pytest.mark.wire,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc for it"),
]

LARGE = 101 * MIB  # more than fal's client sends in one call
MAX_GROWTH = 48 * MIB
"""Ten parts arrive at the same time, each in pieces of 1 MiB, with threads that write them. In
memory as a whole they would need a hundred."""


@dataclass(frozen=True)
class Process:
    address: Address
    pid: int
    directory: Path

    def most_memory(self) -> int:
        """Growth of the memory in bytes, since the start."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (kib,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return int(kib) * 1024

    def files(self) -> list[str]:
        """Growth of the memory, without what is needed only during an upload."""
        return [str(path) for path in self.directory.rglob("*") if path.is_file()]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    directory = tmp_path / "artifacts"
    command = [sys.executable, "-m", "tests.wire.upload_server", str(directory)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdin is not None
    assert started.stdout is not None
    with started:
        url, key = started.stdout.readline().split()
        yield Process(Address(url, key), started.pid, directory)
        started.stdin.close()
        assert started.wait(30) == 0


@pytest.fixture
def client(process: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    for name in GLOBALS:
        monkeypatch.setattr(fal_client.client, name, getattr(fal_client.client, name))
    yield from sync_client(process.address)


def test_a_hundred_megabytes_in_parts_take_no_more_memory_than_a_few(
    process: Process, client: fal_client.SyncClient, tmp_path: Path
) -> None:
    path = tmp_path / "video.mp4"
    block = bytes(range(256)) * (MIB // 256)
    with path.open("wb") as file:
        for number in range(LARGE // MIB):
            file.write(number.to_bytes(4, "big") + block[4:])
    httpx.get(client.upload(block, "video/mp4"))  # so that all code is loaded
    before = process.most_memory()
    url = client.upload_file(path)
    came = hashlib.sha256()
    with httpx.stream("GET", url) as answer:
        for chunk in answer.iter_bytes():
            came.update(chunk)
    with path.open("rb") as file:
        assert came.digest() == hashlib.file_digest(file, "sha256").digest()
    assert process.most_memory() - before < MAX_GROWTH
    assert len(process.files()) == 2


def test_one_at_once_takes_no_more_memory_than_a_few(
    process: Process, client: fal_client.SyncClient
) -> None:
    client.upload(b"abc", "video/mp4")
    before = process.most_memory()
    assert httpx.head(client.upload(bytes(90 * MIB), "video/mp4")).headers["content-length"] == str(
        90 * MIB
    )
    assert process.most_memory() - before < MAX_GROWTH / 2
