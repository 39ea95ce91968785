"""What a killed replica had half made goes on elsewhere from its last snapshot, and is the same."""

import io
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import av
import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.cluster.darkroom import CALL_S, Darkroom, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.crash, pytest.mark.timeout(900)]

LONG: Mapping[str, Mapping[str, Any]] = {
    "fal-ai/flux/dev": {"num_inference_steps": 50, "num_images": 4, "output_format": "png"},
    "test/large-sdxl": {"num_inference_steps": 50, "num_images": 4, "format": "png"},
    "fal-ai/wan/v2.2-5b/text-to-video": {"num_inference_steps": 50, "num_frames": 81},
    "fal-ai/stable-audio": {"steps": 150, "output_format": "flac"},
}
"""Endpoint → an input whose steps take seconds on a CPU."""

LATEST = 0.3  # of the steps, by which a replica is killed as soon as there is a snapshot
ALONE = {"X-Darkroom-Deterministic": "1"}


def submit(
    darkroom: Darkroom, endpoint: str, headers: Mapping[str, str] = ALONE, **more: Any
) -> str:
    body = {"prompt": "a red circle moving left", "seed": 7, **LONG.get(endpoint, {}), **more}
    answer = darkroom.http.post(f"/queue/{endpoint}", json=body, headers=dict(headers))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def files(darkroom: Darkroom, endpoint: str, request_id: str) -> list[bytes]:
    app = "/".join(endpoint.split("/")[:2])
    output = darkroom.http.get(f"/queue/{app}/requests/{request_id}").json()
    entries = output.get("images") or output.get("videos")
    entries = entries or [output.get("video") or output["audio_file"]]
    return [httpx.get(entry["url"], timeout=CALL_S).content for entry in entries]


@pytest.fixture(scope="module")
def uninterrupted_files(darkroom: Darkroom) -> Iterator[Callable[[str], list[bytes]]]:
    """The files of a run alone that nothing interrupts; while the next replica starts."""
    cached: dict[str, list[bytes]] = {}

    def of(endpoint: str) -> list[bytes]:
        if endpoint not in cached:
            request_id = submit(darkroom, endpoint)
            darkroom.in_state(request_id, "succeeded")
            cached[endpoint] = files(darkroom, endpoint, request_id)
        return cached[endpoint]

    yield of
    darkroom.all_ready()


def kill_after_a_snapshot(
    darkroom: Darkroom, request_id: str, runner: psutil.Process, step: int
) -> None:
    eventually(
        lambda: darkroom.sql(
            "SELECT FROM requests WHERE id = %s AND snapshot_step >= %s", request_id, step
        ),
        f"it has a snapshot at step {step} or later",
    )
    runner.kill()


def went_on(darkroom: Darkroom, request_id: str, at: int | None = None) -> None:
    """``at``: the step of the snapshot; None: any."""
    done = darkroom.in_state(request_id, "succeeded")
    assert done["failures"] == 1
    expected = "from the snapshot at step " + ("" if at is None else f"{at}.")
    assert any(expected in line["message"] for line in done["log"])


def some_step(endpoint: str, chance: random.Random) -> int:
    options = LONG[endpoint]
    steps = options.get("num_inference_steps") or options["steps"]
    return chance.randint(1, int(LATEST * steps))


QUICK = "fal-ai/flux/dev"
"""The others take up to 40 s of CPU each. ``tests/engine/snapshot`` goes on with snapshots of every
family in another process, and compares bit for bit."""


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param(endpoint, marks=[] if endpoint == QUICK else [pytest.mark.long])
        for endpoint in LONG
    ],
)
def test_what_is_made_goes_on_from_its_snapshot_when_its_replica_dies_and_is_the_same(
    darkroom: Darkroom,
    endpoint: str,
    uninterrupted_files: Callable[[str], list[bytes]],
    chance: random.Random,
) -> None:
    expected = uninterrupted_files(endpoint)
    darkroom.all_ready()
    request_id = submit(darkroom, endpoint)
    runner = darkroom.runner(request_id)
    kill_after_a_snapshot(darkroom, request_id, runner, some_step(endpoint, chance))
    went_on(darkroom, request_id)
    assert files(darkroom, endpoint, request_id) == expected


@pytest.mark.long
def test_a_video_that_is_decoded_when_its_replica_dies_is_not_denoised_again(
    darkroom: Darkroom,
) -> None:
    endpoint, steps = "test/large-wan", 8  # over a second, so that it is kept when they are done
    options = {"num_inference_steps": steps, "num_frames": 161}
    whole = submit(darkroom, endpoint, **options)
    darkroom.in_state(whole, "succeeded")
    darkroom.all_ready()
    request_id = submit(darkroom, endpoint, **options)
    # There is one of all its steps once it is decoded, and that takes seconds.
    kill_after_a_snapshot(darkroom, request_id, darkroom.runner(request_id), steps)
    went_on(darkroom, request_id, at=steps)
    assert files(darkroom, endpoint, request_id) == files(darkroom, endpoint, whole)


IN_COMPANY = pytest.mark.parametrize("endpoint", LONG)


@pytest.mark.long
@IN_COMPANY
def test_what_was_made_beside_another_goes_on_alone_and_is_the_same_within_rounding(
    darkroom: Darkroom,
    endpoint: str,
    uninterrupted_files: Callable[[str], list[bytes]],
    chance: random.Random,
) -> None:
    expected = uninterrupted_files(endpoint)
    darkroom.all_ready()
    # As many as both replicas have slots.
    requests = [submit(darkroom, endpoint, headers={}, seed=seed) for seed in (7, 8, 9, 10)]
    first, *others = requests
    eventually(lambda: beside(darkroom, first, others), "another runs on its replica")
    runner = darkroom.runner(first)
    kill_after_a_snapshot(darkroom, first, runner, some_step(endpoint, chance))
    went_on(darkroom, first)
    alike(files(darkroom, endpoint, first), expected)
    for neighbour in others:
        darkroom.in_state(neighbour, "succeeded")


@pytest.mark.long
@IN_COMPANY
def test_what_was_made_alone_goes_on_beside_another_and_is_the_same_within_rounding(
    darkroom: Darkroom,
    endpoint: str,
    uninterrupted_files: Callable[[str], list[bytes]],
    chance: random.Random,
) -> None:
    expected = uninterrupted_files(endpoint)
    darkroom.all_ready()
    first = submit(darkroom, endpoint, headers={})
    runner = darkroom.runner(first)
    kill_after_a_snapshot(darkroom, first, runner, some_step(endpoint, chance))
    # More than there are slots, so that it does not find itself alone when it goes on.
    others = [submit(darkroom, endpoint, headers={}, seed=seed) for seed in range(8, 14)]

    def again_beside() -> bool:
        return darkroom.request(first)["failures"] == 1 and beside(darkroom, first, others)

    eventually(again_beside, "another runs on its next replica")
    went_on(darkroom, first)
    alike(files(darkroom, endpoint, first), expected)
    for neighbour in others:
        darkroom.in_state(neighbour, "succeeded")


def beside(darkroom: Darkroom, first: str, others: list[str]) -> bool:
    """Whether it runs on a replica that runs one of the others."""
    seen = [darkroom.request(request_id) for request_id in (first, *others)]
    replica_ids = [
        request["replica_id"] if request["state"] == "running" else None for request in seen
    ]
    return replica_ids[0] is not None and replica_ids[0] in replica_ids[1:]


@pytest.mark.long
def test_a_death_after_two_of_four_videos_leaves_them_as_they_are(
    darkroom: Darkroom,
) -> None:
    endpoint, steps = "fal-ai/wan/v2.2-5b/text-to-video", 40
    options = {"seed": None, "seeds": [7, 8, 9, 10], "num_inference_steps": steps, "num_frames": 49}
    whole = submit(darkroom, endpoint, **options)
    darkroom.in_state(whole, "succeeded")
    darkroom.all_ready()
    request_id = submit(darkroom, endpoint, **options)
    kill_after_a_snapshot(darkroom, request_id, darkroom.runner(request_id), 2 * steps + 1)
    went_on(darkroom, request_id)
    videos = files(darkroom, endpoint, request_id)
    assert len(videos) == 4
    assert videos == files(darkroom, endpoint, whole)


def alike(contents: list[bytes], alone: list[bytes]) -> None:
    """A level of an image, and a sixteen-thousandth of full scale of audio. The frames of a video
    have been through an encoder, which makes another file of another level."""
    for content, other in zip(contents, alone, strict=True):
        kind, levels = levels_of(content)
        apart = np.abs(levels - levels_of(other)[1])
        assert apart.max() <= {"image": 1, "audio": 2, "video": 255}[kind]
        assert apart.mean() <= 0.5


def levels_of(file: bytes) -> tuple[str, np.ndarray]:
    """What it is, and its samples."""
    if file[:4] in (b"\x89PNG", b"RIFF"):
        return "image", np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
    with av.open(io.BytesIO(file)) as opened:
        if opened.streams.video:
            frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
            return "video", np.stack(frames).astype(int)
        heard = [frame.to_ndarray() for frame in opened.decode(audio=0)]
        return "audio", np.concatenate(heard, axis=1).astype(int)
