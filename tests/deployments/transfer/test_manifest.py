"""Manifests in files of every type that can have one, from memory and from disk."""

from __future__ import annotations

import asyncio
import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.engine.media.audio import write_audio
from deployments.engine.media.images import encode
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoFile
from deployments.transfer.manifest import GenerationFacts, ManifestWriter, lora_facts
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import EXTENSIONS, UploadTicket
from serve_app.domain.errors import NotSigned
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.marking import SIGNED_TYPES, is_marked
from tests.deployments.replica.test_signed_files import manifest
from tests.fakes.file_signer import FakeFileSigner

pytestmark = pytest.mark.engine

HELD = LeaseKey("one", 1)
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
SAMPLES = np.sin(np.arange(48_000, dtype=np.float32) / 20)[None]


def write_media(path: Path, media_type: str) -> None:
    if media_type.startswith("audio/"):
        write_audio(path, SAMPLES, 48_000, media_type, marked=True)
    elif media_type in ("video/mp4", "image/gif"):
        scratch = Scratch()
        scratch.marked = True
        video = VideoFile(path, VideoForm(media_type, 32, 24, Fraction(8), 3), scratch)
        for _ in range(3):
            video.add(NOISE)
        video.finish()
    else:
        path.write_bytes(encode(Image.fromarray(NOISE), media_type, marked=True))


async def sign_media(file: MediaFile, signer: FakeFileSigner) -> MediaFile:
    writer = ManifestWriter(signer, HELD, signer.chain, asyncio.get_running_loop())
    loras = (lora_facts(Path("ab12.safetensors"), 0.5),)
    facts = GenerationFacts("a/b", "o/n@1", 7, "one", 4, loras)
    return await asyncio.to_thread(writer.add_manifest, file, facts)


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("media_type", sorted(SIGNED_TYPES))
async def test_a_file_of_each_type_is_signed_and_keeps_its_mark(
    tmp_path: Path, media_type: str, on_disk: bool
) -> None:
    path = tmp_path / f"a.{EXTENSIONS[media_type]}"
    write_media(path, media_type)
    ticket = UploadTicket("k", "http://s/k", media_type, 10**8)
    signer = FakeFileSigner()
    file = await sign_media(MediaFile(ticket, path if on_disk else path.read_bytes()), signer)
    assert isinstance(file.body, Path) is on_disk
    assert path.exists() is not on_disk, "only one copy of a large file stays"
    state, facts = manifest(media_type, file.in_memory(), signer.chain)
    assert state == "Trusted"
    assert facts["loras"] == [{"file": "ab12", "scale": 0.5}]
    assert is_marked(file.in_memory())
    if media_type == "image/png":
        with Image.open(io.BytesIO(file.in_memory())) as image:
            assert image.tobytes() == NOISE.tobytes()


async def test_what_is_no_file_of_its_type_is_not_signed(tmp_path: Path) -> None:
    ticket = UploadTicket("k", "http://s/k", "image/png", 10**8)
    with pytest.raises(NotSigned, match="could not be signed"):
        await sign_media(MediaFile(ticket, b"nothing"), FakeFileSigner())
