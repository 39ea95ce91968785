"""Every file that a replica uploads gets a small image beside it, if the lease has a ticket."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.engine.media import images
from deployments.engine.media.audio import write_audio
from deployments.engine.media.images import THUMBNAIL_SIDE, thumbnail
from deployments.engine.media.video_format import VideoForm
from deployments.engine.media.video_writer import VideoWriter
from deployments.replica.files import shown_image
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import THUMBNAIL_TYPE, UploadTicket
from serve_app.domain.lease import Lease
from tests.deployments.client_bucket import TYPED, Bucket, bucket, moto_server, policy_uploader
from tests.deployments.conftest import MakeRig, Rig
from tests.deployments.demos import FLUX, make_lease

__all__ = ["bucket", "moto_server"]

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]

FORM = VideoForm("video/mp4", 64, 32, Fraction(8), 3, "maximum", "fast")


def with_thumbnails(rig: Rig, lease: Lease) -> Lease:
    return replace(
        lease,
        upload_tickets=tuple(
            replace(ticket, thumbnail=rig.storage.ticket(f"{ticket.key}-small", THUMBNAIL_TYPE))
            for ticket in lease.upload_tickets
        ),
    )


def open_image(body: bytes) -> Image.Image:
    return Image.open(io.BytesIO(body))


def of_type(media_type: str, body: bytes | Path) -> MediaFile:
    return MediaFile(UploadTicket("k", "http://s/k", media_type, 10**8), body)


async def test_an_image_is_delivered_with_its_thumbnail(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[threading.Thread] = []

    def noted(image: Image.Image, *, marked: bool) -> tuple[bytes, int, int]:
        where.append(threading.current_thread())
        return thumbnail(image, marked=marked)

    monkeypatch.setattr(images, "thumbnail", noted)
    rig = await make_rig(call_timeout_s=20.0)
    lease = with_thumbnails(rig, make_lease(rig, "one", FLUX, num_images=2, image_size="square_hd"))
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    assert len(outcome.artifacts) == 2
    for artifact in outcome.artifacts:
        small = artifact.thumbnail
        assert small is not None
        body = rig.storage.objects[small.key]
        assert (small.size, small.media_type) == (len(body), THUMBNAIL_TYPE)
        assert open_image(body).format == "WEBP"
        assert open_image(body).size == (small.width, small.height) == (512, 512)
        whole = open_image(rig.storage.objects[artifact.key]).convert("RGB").resize((8, 8))
        apart = np.abs(
            np.asarray(whole, float) - np.asarray(open_image(body).resize((8, 8)), float)
        )
        assert apart.mean() < 12  # of 255
    encoders = rig.resources.encoders._threads
    assert len(where) == 2
    assert set(where) <= encoders


async def test_a_lease_without_a_ticket_for_it_gets_none(make_rig: MakeRig) -> None:
    rig = await make_rig(call_timeout_s=20.0)
    lease = make_lease(rig, "one", FLUX)
    rig.port.offer(lease)
    (artifact,) = (await rig.outcome(lease.key)).artifacts
    assert artifact.thumbnail is None
    assert rig.storage.objects.keys() == {artifact.key}


async def test_a_file_that_is_no_image_is_delivered_without_one(rig: Any) -> None:
    lease = with_thumbnails(rig, rig.lease("one", steps=1, artifact_bytes=1000))
    rig.port.offer(lease)
    outcome = await rig.outcome(lease.key)
    (artifact,) = outcome.artifacts
    assert outcome.succeeded
    assert artifact.thumbnail is None
    assert rig.storage.objects.keys() == {artifact.key}


@pytest.mark.long
async def test_a_thumbnail_that_storage_refuses_does_not_fail_the_request(
    make_rig: MakeRig,
) -> None:
    rig = await make_rig(call_timeout_s=20.0)
    lease = with_thumbnails(rig, make_lease(rig, "one", FLUX))
    (ticket,) = lease.upload_tickets
    assert ticket.thumbnail is not None
    tiny = replace(ticket, thumbnail=replace(ticket.thumbnail, max_bytes=1))
    lease = replace(lease, upload_tickets=(tiny,))
    rig.port.offer(lease)
    (artifact,) = (await rig.outcome(lease.key)).artifacts
    assert artifact.thumbnail is None
    assert rig.storage.objects.keys() == {artifact.key}


@pytest.mark.parametrize(
    ("size", "small"),
    [((1024, 512), (512, 256)), ((300, 200), (300, 200)), ((4000, 3), (512, 1))],
)
def test_it_is_at_most_so_large_and_never_larger_than_the_image(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    body, *dimensions = thumbnail(Image.new("RGB", size, "red"))
    assert tuple(dimensions) == small == open_image(body).size
    assert max(small) <= THUMBNAIL_SIDE


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_file_is_read_again_where_its_pixels_are_gone(kind: str) -> None:
    body = io.BytesIO()
    Image.new("RGB", (3000, 1500), "red").save(body, kind)
    shown = shown_image(of_type(f"image/{kind.lower()}", body.getvalue()))
    assert shown.width == 2 * shown.height >= 1024
    assert np.allclose(shown.resize((1, 1)).getpixel((0, 0)), (255, 0, 0), atol=4)


def test_a_video_shows_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with VideoWriter(path, FORM) as writer:
        for blue in (255, 0, 0):
            writer.write(np.full((32, 64, 3), (0, 0, blue), np.uint8))
    shown = shown_image(of_type("video/mp4", path))
    assert shown.size == (64, 32)
    red, green, blue = shown.resize((1, 1)).getpixel((0, 0))
    assert blue > 200
    assert max(red, green) < 100


def test_a_sound_shows_its_waveform(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    silence, loud = np.zeros(8000), np.sin(np.arange(8000))
    write_audio(path, np.stack([np.concatenate([silence, loud])]).astype("f4"), 8000, "audio/wav")
    levels = np.asarray(shown_image(of_type("audio/wav", path)).convert("L"), float)
    quiet, noisy = np.hsplit(levels, 2)
    assert noisy.mean() > 3 * quiet.mean()


@pytest.mark.parametrize("media_type", ["video/mp4", "audio/wav", "image/png"])
def test_a_damaged_file_shows_nothing(media_type: str) -> None:
    with pytest.raises((OSError, ValueError)):
        shown_image(of_type(media_type, b"no such thing"))


@pytest.mark.long
async def test_images_go_to_the_bucket_of_the_client_without_thumbnails(
    make_rig: MakeRig, bucket: Bucket
) -> None:
    rig = await make_rig(call_timeout_s=20.0, buckets=policy_uploader())
    policy = bucket.policy(TYPED)
    tickets = tuple(bucket.ticket(policy, f"one-{number}.png") for number in range(2))
    lease = make_lease(rig, "one", FLUX, num_images=2, output_format="png")
    rig.port.offer(replace(lease, upload_tickets=tickets))
    outcome = await rig.outcome(lease.key)
    stored = bucket.objects()
    assert sorted(stored) == ["out/one-0.png", "out/one-1.png"]
    assert {open_image(body).format for body in stored.values()} == {"PNG"}
    assert [artifact.key for artifact in outcome.artifacts] == [ticket.key for ticket in tickets]
    assert [artifact.thumbnail for artifact in outcome.artifacts] == [None, None]
    shown = [image["artifact"] for image in outcome.output["images"]]
    assert shown == [ticket.key for ticket in tickets]
    assert rig.storage.objects == {}
