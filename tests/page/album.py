"""Results of earlier days, put into the fake queue as if they had been made then."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from serve_app.domain.artifact import MEDIA_TYPES, Artifact
from serve_app.domain.outcome import Failure, Outcome, Usage
from serve_app.domain.request import NewRequest, Priority, Request, State
from serve_app.ingress.services.request_ids import RequestIds
from serve_app.storage.keys import PRIVATE
from tests.fakes.clock import FakeClock
from tests.fakes.queue_row import Row
from tests.ingress.house import House
from tests.page.painter import image

SIDES = (1024, 1024), (1216, 832), (832, 1216), (1344, 768), (1024, 768)
SUBJECTS = (
    *("a lighthouse on a cliff at dusk", "a quiet harbour in the rain", "an orchard in spring"),
    *("portrait of an old sailor, film grain", "a glass teapot", "dunes, aerial view"),
    *("a fox in tall grass", "a small kitchen in morning light", "neon street, wet asphalt"),
)
SMALL = 8  # a thumbnail has a side of an eighth: tests are not about details


@dataclass(frozen=True, slots=True)
class Entry:
    """Request of the album. ``files``: number of its images. ``content``: of its one file, if that
    is no image; ``poster``: with an image of that file."""

    prompt: str
    age: timedelta
    files: int = 1
    state: State = State.SUCCEEDED
    endpoint: str = "fal-ai/flux/schnell"
    input: Mapping[str, Any] = field(default_factory=dict[str, Any])
    content: bytes = b""
    extension: str = ""
    poster: bool = False


def entries(count: int, *, days: int = 30, seed: int = 1) -> list[Entry]:
    """Various entries, newest first, over some days."""
    chance = random.Random(seed)  # noqa: S311 - nothing is secret here
    ages = sorted(chance.uniform(0.002, days) for _ in range(count))
    states = [State.SUCCEEDED] * 30 + [State.FAILED, State.CANCELLED]
    return [
        Entry(
            f"{chance.choice(SUBJECTS)}, number {number}",
            timedelta(days=age),
            chance.choice((1, 1, 1, 1, 2, 4)),
            chance.choice(states),
        )
        for number, age in enumerate(ages)
    ]


def hang(
    house: House, tenant: str, kept: Sequence[Entry], now: datetime, *, private: bool = False
) -> list[str]:
    """Store requests as they would be after their end. Returns their ids."""
    ids: list[str] = []
    images = [_stored_images(house, number) for number in range(12)]
    for place, entry in enumerate(kept):
        at = now - entry.age
        request_id = RequestIds(FakeClock(at))()
        files = [
            _artifact(
                house,
                _folder(request_id, private),
                number,
                *images[(place * 3 + number) % len(images)],
            )
            for number in range(entry.files if entry.state is State.SUCCEEDED else 0)
        ]
        if entry.content:
            folder = _folder(request_id, private)
            poster = [_artifact(house, folder, 1, *images[0])] if entry.poster else []
            files = [_other(house, folder, entry, images[0][1]), *poster]
        request_input = {"prompt": entry.prompt, "num_inference_steps": 4, **entry.input}
        new = NewRequest(
            request_id, tenant, entry.endpoint, entry.endpoint, "studio", request_input
        )
        request = Request(
            id=request_id,
            tenant=tenant,
            endpoint=entry.endpoint,
            pool="studio",
            state=entry.state,
            input=request_input,
            priority=Priority.NORMAL,
            attempt=1,
            failures=0,
            created_at=at,
            started_at=at + timedelta(seconds=1),
            finished_at=at + timedelta(seconds=4),
            outcome=_outcome(entry, files, seed=place + 1),
        )
        house.queue._rows[request_id] = Row(request, place, new, 1.0)
        ids.append(request_id)
    return ids


def _outcome(entry: Entry, files: Sequence[Artifact], seed: int) -> Outcome:
    usage = Usage(run_s=2.4, steps=4)
    if entry.state is State.FAILED:
        failure = Failure("pipeline_failed", "The paint has run out.", retryable=False)
        return Outcome(failure=failure, usage=usage)
    if entry.state is not State.SUCCEEDED:
        return Outcome(failure=Failure("cancelled", "The request was cancelled.", retryable=False))
    images = [{"artifact": file.key, "width": file.width, "height": file.height} for file in files]
    posters = {"poster": images.pop()} if entry.poster else {}
    output = {
        "images": images,
        **posters,
        "seed": seed,
        "prompt": entry.prompt,
        "timings": {"inference": 2.4},
    }
    return Outcome(output=output, artifacts=tuple(files), usage=usage)


def _stored_images(house: House, number: int) -> tuple[Artifact, Artifact]:
    """An image and its thumbnail, whose bytes many requests share."""
    width, height = SIDES[number % len(SIDES)]
    whole = image(width // 2, height // 2, number * 5, "image/jpeg")
    small = image(width // SMALL, height // SMALL, number * 5, "image/webp")
    thumbnail = _file("thumbnail.webp", "image/webp", small, width // SMALL, height // SMALL)
    house.storage.objects[f"{number}.jpeg"] = whole
    house.storage.objects[f"{number}.webp"] = small
    kept = _file(f"{number}.jpeg", "image/jpeg", whole, width, height)
    return kept, replace(thumbnail, key=f"{number}.webp")


def _folder(request_id: str, private: bool) -> str:
    return f"{PRIVATE}rules/r/{request_id}/1" if private else f"r/{request_id}/1"


def _artifact(house: House, folder: str, number: int, whole: Artifact, small: Artifact) -> Artifact:
    """The file of a request: its own key for the shared bytes."""
    objects = house.storage.objects
    key, small_key = f"{folder}/{number}-{whole.key}", f"{folder}/{number}-{small.key}"
    objects[key], objects[small_key] = objects[whole.key], objects[small.key]
    return replace(whole, key=key, thumbnail=replace(small, key=small_key))


def _other(house: House, folder: str, entry: Entry, small: Artifact) -> Artifact:
    """A file that is no image, with a thumbnail."""
    key = f"{folder}/0.{entry.extension}"
    house.storage.objects[key] = entry.content
    kept = _file(key, MEDIA_TYPES[entry.extension], entry.content, None, None)
    shown = _artifact(house, folder, 0, small, small)
    return replace(kept, thumbnail=replace(shown, thumbnail=None))


def _file(
    key: str, media_type: str, content: bytes, width: int | None, height: int | None
) -> Artifact:
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(key, media_type, len(content), digest, width, height)
