"""A clip's files and its output in fal's shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.clip_form import ClipForm
from deployments.family import Made, MediaFile, Product
from serve_app.domain.artifact import EXTENSIONS, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured, PipelineFailed

if TYPE_CHECKING:
    from deployments.engine.clip import Pixels

AT_ONCE = 16  # frames that are brought from the device together


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What is remembered until the frames are there."""

    form: ClipForm
    seed: int
    prompt: str
    sound_rate: int | None = None  # samples a second; None: no sound


def deliver_clip(
    endpoint: Endpoint, facts: ClipFacts, made: Made, tickets: Sequence[UploadTicket]
) -> Product:
    """The clip for the first ticket, and its first frame for the second, if there is one."""
    form = facts.form
    if not tickets or tickets[0].media_type != form.media_type:
        types = ", ".join(each.media_type for each in tickets) or "none"
        raise Misconfigured(
            f"{endpoint.id} makes a clip as {form.media_type}, but the lease came with tickets for "
            f"{types}."
        )
    path = made.scratch.new_file(EXTENSIONS[form.media_type])
    poster = _write(path, facts, made)
    files = [MediaFile(tickets[0], path, form.width, form.height)]
    output: dict[str, Any] = {
        "video": {
            **_file(files[0]),
            "fps": _plain(form),
            "duration": round(form.duration_s, 4),
            "num_frames": form.num_frames,
        },
        "seed": facts.seed,
        "prompt": facts.prompt,
        "timings": {"inference": round(made.inference_s, 4)},
    }
    if len(tickets) > 1:
        from deployments.engine.media import encode  # noqa: PLC0415

        body = encode(poster, tickets[1].media_type)
        files.append(MediaFile(tickets[1], body, form.width, form.height))
        output["poster"] = _file(files[1])
    if endpoint.weights.demo:
        output["darkroom_demo"] = True
    return Product(output, files, units=form.duration_s)


def _write(path: Path, facts: ClipFacts, made: Made) -> Any:
    """The file; returns its first frame, as Pillow's picture in the form's size."""
    from PIL import Image  # noqa: PLC0415

    from deployments.engine.clip import ClipWriter  # noqa: PLC0415
    from deployments.engine.media import fit  # noqa: PLC0415
    from deployments.engine.soundtrack import Soundtrack  # noqa: PLC0415

    form, scratch = facts.form, made.scratch
    rate = facts.sound_rate
    sound = Soundtrack.of(made.result.audio[0], rate) if rate is not None else None
    poster: Any = None
    with ClipWriter(path, form, rate) as writer:
        for number, pixels in enumerate(_frames(made.result, form)):
            scratch.check()
            if poster is None:
                poster = fit(Image.fromarray(pixels), form.width, form.height)
            writer.write(pixels)
            if sound is not None:
                writer.write_sound(sound.during(number / form.fps, (number + 1) / form.fps))
            scratch.on_made(number + 1, form.num_frames)
    return poster


def _frames(result: Any, form: ClipForm) -> Iterator[Pixels]:
    """As many as the form says; the pipeline may have made some more."""
    from deployments.engine.media import to_levels  # noqa: PLC0415

    clip = result.frames[0]  # [frames, 3, height, width], 0 to 1
    if len(clip) < form.num_frames:
        raise PipelineFailed(f"{len(clip)} frames were made, and {form.num_frames} were asked for.")
    for start in range(0, form.num_frames, AT_ONCE):
        yield from to_levels(clip[start : min(start + AT_ONCE, form.num_frames)])


def _file(file: MediaFile) -> dict[str, Any]:
    return {
        "artifact": file.ticket.key,
        "width": file.width,
        "height": file.height,
        "content_type": file.ticket.media_type,
        "file_size": file.size,
    }


def _plain(form: ClipForm) -> float | int:
    """24 rather than 24.0."""
    return form.fps.numerator if form.fps.denominator == 1 else round(float(form.fps), 4)
