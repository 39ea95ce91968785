"""A clip's files and its output in fal's shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployments.clip_form import ClipForm
from deployments.family import GenerationCall, Made, MediaFile, Product
from serve_app.domain.artifact import EXTENSIONS, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

if TYPE_CHECKING:
    from deployments.engine.clip import Pixels
    from deployments.engine.clip_file import ClipFile
    from deployments.engine.soundtrack import Soundtrack

AT_ONCE = 16  # frames that are brought from the device together


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What is remembered until the frames are there."""

    form: ClipForm
    seed: int
    prompt: str
    sound_rate: int | None = None  # samples a second; None: no sound


def deliver_clip(
    endpoint: Endpoint, call: GenerationCall, made: Made, tickets: Sequence[UploadTicket]
) -> Product:
    """The clip for the first ticket, and its first frame for the second, if there is one. The
    call's fact ``clip`` is a ``ClipFacts``; what its recording has taken is not written again."""
    facts: ClipFacts = call.facts["clip"]
    form = facts.form
    if not tickets or tickets[0].media_type != form.media_type:
        types = ", ".join(each.media_type for each in tickets) or "none"
        raise Misconfigured(
            f"{endpoint.id} makes a clip as {form.media_type}, but the lease came with tickets for "
            f"{types}."
        )
    sound = _sound(facts, made)
    recorded = call.recording.finish(sound) if call.recording is not None else None
    clip = recorded or _written(facts, made, sound)
    files = [MediaFile(tickets[0], clip.path, form.width, form.height)]
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

        body = encode(clip.poster, tickets[1].media_type)
        files.append(MediaFile(tickets[1], body, form.width, form.height))
        output["poster"] = _file(files[1])
    if endpoint.weights.demo:
        output["darkroom_demo"] = True
    return Product(output, files, units=form.duration_s)


def _sound(facts: ClipFacts, made: Made) -> Soundtrack | None:
    if facts.sound_rate is None:
        return None
    from deployments.engine.soundtrack import Soundtrack  # noqa: PLC0415

    return Soundtrack.of(made.result.audio[0], facts.sound_rate)


def _written(facts: ClipFacts, made: Made, sound: Soundtrack | None) -> ClipFile:
    """Of a pipeline that gave all frames at once."""
    from deployments.engine.clip_file import ClipFile  # noqa: PLC0415

    form = facts.form
    path = made.scratch.new_file(EXTENSIONS[form.media_type])
    file = ClipFile(path, form, made.scratch, facts.sound_rate)
    try:
        for pixels in _frames(made.result, form.num_frames):
            file.add(pixels)
    except BaseException:
        file.give_up()
        raise
    file.finish(sound)
    return file


def _frames(result: Any, count: int) -> Iterator[Pixels]:
    """The first ``count``; the pipeline may have made some more."""
    from deployments.engine.media import to_levels  # noqa: PLC0415

    clip = result.frames[0][:count]  # [frames, 3, height, width], 0 to 1
    for start in range(0, len(clip), AT_ONCE):
        yield from to_levels(clip[start : start + AT_ONCE])


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
