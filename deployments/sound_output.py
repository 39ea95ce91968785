"""A sound's files and its output in fal's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.family import Made, MediaFile, Product
from deployments.sound_form import SoundForm
from serve_app.domain.artifact import EXTENSIONS, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class SoundFacts:
    """What is remembered until the samples are there."""

    form: SoundForm
    seed: int
    prompt: str
    field: str  # of the output, for the file
    echoed: Mapping[str, Any]  # what else of the input the output repeats


def deliver_sound(
    endpoint: Endpoint, facts: SoundFacts, made: Made, tickets: Sequence[UploadTicket]
) -> Product:
    """The sound for the first ticket, and a picture of it for the second, if there is one."""
    from deployments.engine.media import encode  # noqa: PLC0415
    from deployments.engine.sound import write_sound  # noqa: PLC0415
    from deployments.engine.sound_levels import levelled  # noqa: PLC0415
    from deployments.engine.waveform import HEIGHT, WIDTH, waveform  # noqa: PLC0415

    form, scratch = facts.form, made.scratch
    if not tickets or tickets[0].media_type != form.media_type:
        types = ", ".join(each.media_type for each in tickets) or "none"
        raise Misconfigured(
            f"{endpoint.id} makes a sound as {form.media_type}, but the lease came with tickets "
            f"for {types}."
        )
    samples = levelled(made.result.audios[0], form.samples)
    path = scratch.new_file(EXTENSIONS[form.media_type])

    def on_part(done: int) -> None:
        scratch.check()
        scratch.on_made(done, samples.shape[1])

    write_sound(path, samples, form.rate, form.media_type, on_part)
    files = [MediaFile(tickets[0], path)]
    output: dict[str, Any] = {
        facts.field: {
            "artifact": tickets[0].key,
            "content_type": form.media_type,
            "file_size": files[0].size,
            "duration": round(samples.shape[1] / form.rate, 4),
            "sample_rate": form.rate,
            "channels": samples.shape[0],
        },
        "seed": facts.seed,
        "prompt": facts.prompt,
        **facts.echoed,
        "timings": {"inference": round(made.inference_s, 4)},
    }
    if len(tickets) > 1:
        picture = encode(waveform(samples), tickets[1].media_type)
        files.append(MediaFile(tickets[1], picture, WIDTH, HEIGHT))
        output["waveform"] = {
            "artifact": tickets[1].key,
            "width": WIDTH,
            "height": HEIGHT,
            "content_type": tickets[1].media_type,
            "file_size": files[1].size,
        }
    if endpoint.weights.demo:
        output["darkroom_demo"] = True
    return Product(output, files, units=form.seconds)
