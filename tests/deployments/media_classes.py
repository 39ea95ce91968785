"""Which diffusers pipelines for videos and audio work with only a catalogue entry. Writes the docs
page about them.

python -m tests.deployments.media_classes [--out docs/reference/media-pipelines.md] [CLASS …]
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from deployments.engine.engine import Engine
from deployments.engine.media.audio import InputAudio, read_audio
from deployments.engine.media.scratch import Scratch
from deployments.engine.media.video_reader import InputVideo, read_video
from deployments.families.audio import AudioFamily
from deployments.families.base import GenerationResult
from deployments.families.call_mapping import mapping_of, parameters
from deployments.families.options import apply_options
from deployments.families.video import NUMBERS_OF_FRAMES, TASKS, VideoFamily
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from tests.deployments.videos import decode_video, input_image, tickets
from tests.engine.conformance import classes, zoo
from tests.engine.conformance.__main__ import be_quiet
from tests.engine.conformance.case import WISHES, Case
from tests.engine.media.test_audio import read
from tests.engine.media.test_audio_reading import audio
from tests.engine.media.test_video_reader import video

SERVED, FITS, NOT = "yes", "arguments fit; not run", "no"
FRAMES, FPS = 5, 8
TILED = frozenset(
    {"AllegroPipeline"}
)  # their entries have `tiling: true`: they can only decode in tiles

REASONS = {
    "EasyAnimateControlPipeline": "the call fails in diffusers itself",
    "LTX2LatentUpsamplePipeline": "it upsamples latents of another pipeline",
    "LTXLatentUpsamplePipeline": "it upsamples latents of another pipeline",
    "LTX2VideoDiffusionDecodePipeline": "it decodes latents of another pipeline",
}
"""Reasons that the arguments do not show."""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    served: str
    how: str  # the task, or the reason why not


def of_media() -> dict[str, Any]:
    """Classes whose calls return frames or audio, without those that diffusers has deprecated and
    those that need a library missing here."""
    return {
        name: kind
        for name, kind in classes.pipeline_classes().items()
        if not hasattr(kind, "_backends")
        and not classes.why_absent(name).startswith("deprecated")
        and _gives(kind, "frames", "audios")
    }


def _gives(kind: Any, *fields: str) -> bool:
    source = inspect.getsource(kind.__call__)
    return any(f"({field}=" in source for field in fields)


def examine(name: str, kind: Any) -> Finding:
    if name in REASONS:
        return Finding(name, NOT, REASONS[name])
    case = next((candidate for candidate in zoo.cases().values() if candidate.name == name), None)
    arguments = dict(case.call(WISHES[0])) if case is not None else {}
    begun = {_taken(kind, arguments, VIDEOS), _taken(kind, arguments, AUDIOS)}
    if more := sorted((_not_data(arguments) | _demanded(kind)) - begun):
        unmet = ", ".join(f"`{field}`" for field in more)
        return Finding(name, NOT, f"it needs {unmet}, which no task passes")
    endpoint = (
        _entry(kind, arguments) if _gives(kind, "frames") else _entry_of_audio(kind, arguments)
    )
    task = endpoint.options["task"]
    takes = parameters(kind)
    missing = {"num_inference_steps", "generator", "output_type"} - takes
    if missing:
        return Finding(name, NOT, f"its call takes no `{missing.pop()}`")
    if case is None:
        return Finding(name, FITS, task)
    run = _run if endpoint.family == "video" else _run_audio
    wrong = run(case, endpoint, arguments)
    return Finding(name, NOT if wrong else SERVED, wrong or task)


def _entry(kind: Any, asked: Mapping[str, Any]) -> Endpoint:
    """Endpoint for the class. The case's arguments that are plain data become fixed ones."""
    taken = _taken(kind, asked, VIDEOS)
    passed = {"prompt", "width", "height", "image", "output_type", *NUMBERS_OF_FRAMES, taken}
    seeing = "image" in asked or _needs(kind, "image")
    video = {"width": asked.get("width", 32), "height": asked.get("height", 32)}
    options = {
        "task": "video-to-video" if taken else "image-to-video" if seeing else "text-to-video",
        "video": taken,
        "images": "pillow",
        "multiple": 1,
        "video_format": {**video, "num_frames": FRAMES, "fps": FPS},
        "fixed": {key: value for key, value in asked.items() if key not in passed},
        "tiling": kind.__name__ in TILED,
    }
    endpoint = Endpoint("me/mine", "video", Weights("/"), "open", options=options)
    mapping_of(endpoint, TASKS)
    return endpoint


def _run(case: Case, endpoint: Endpoint, asked: Mapping[str, Any]) -> str:
    """Run the case and return what is wrong with the video. Empty if nothing is."""
    family, pipeline = VideoFamily(), apply_options(case.build(), endpoint)
    frames = next((asked[field] for field in NUMBERS_OF_FRAMES if field in asked), FRAMES)
    body = {"prompt": WISHES[0].prompt, "num_inference_steps": 2, "seed": 7, "num_frames": frames}
    side = int(endpoint.options["video_format"]["width"])
    count = next((len(asked[field]) for field in VIDEOS if field in asked), frames)
    images = {"image_url": input_image(side, side), "video_url": a_video(count, side)}
    body = {**body, "num_frames": count} if endpoint.options["video"] else body
    with Engine(pipeline, threads=1) as engine, tempfile.TemporaryDirectory() as folder:
        call = family.prepare(endpoint, body | images, pipeline, 1)
        result = engine.submit(**call.arguments).result(120)
        scratch = Scratch()
        try:
            product = family.deliver(
                endpoint, call, GenerationResult(result, 1.0, 2, scratch), tickets()
            )
            Path(folder, "video.mp4").write_bytes(product.files[0].body.read_bytes())
        finally:
            scratch.close()
        video = decode_video(Path(folder, "video.mp4"))
    if not torch.isfinite(result.frames).all():
        return "it gives no numbers"
    form = call.output_facts["video"].form
    shape = (len(video.frames), *video.size)
    if shape != (form.num_frames, form.width, form.height):
        return f"of {form.num_frames} frames it makes {len(video.frames)}"
    return ""


VIDEOS = ("video", "control_video", "conditioning_frames")
AUDIOS = ("audio", "src_audio")
"""Names that pipelines use for an input video or audio."""


def _taken(kind: Any, asked: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Argument for the input file. None if there is none. An entry supports only one."""
    matches = [name for name in names if name in asked or _needs(kind, name)]
    return matches[0] if len(matches) == 1 else None


def a_video(frames: int, side: int) -> InputVideo:
    with tempfile.TemporaryDirectory() as folder:
        return read_video(video(Path(folder), frames=frames, size=(side, side)), "video_url")


def a_audio(seconds: float) -> InputAudio:
    with tempfile.TemporaryDirectory() as folder:
        return read_audio(audio(Path(folder), seconds=seconds, rate=16_000), "audio_url")


LENGTHS = ("audio_length_in_s", "audio_duration", "audio_duration_s", "duration")


def _entry_of_audio(kind: Any, asked: Mapping[str, Any]) -> Endpoint:
    length = next((field for field in LENGTHS if field in parameters(kind)), None)
    span = {"start": "audio_start_in_s", "end": "audio_end_in_s"}
    taken = _taken(kind, asked, AUDIOS)
    passed = {"prompt", "output_type", *LENGTHS, *span.values(), taken}
    options = {
        "task": "audio-to-audio" if taken else "text-to-audio",
        "audio_format": {**(span if length is None else {"length": length}), "input": taken},
        "fixed": {key: value for key, value in asked.items() if key not in passed},
    }
    return Endpoint("me/mine", "audio", Weights("/"), "open", options=options)


def _run_audio(case: Case, endpoint: Endpoint, asked: Mapping[str, Any]) -> str:
    """Run the case and return what is wrong with the audio. Empty if nothing is."""
    family, pipeline = AudioFamily(), case.build()
    seconds = next((asked[field] for field in LENGTHS if field in asked), 0.1)
    body = {"prompt": WISHES[0].prompt, "num_inference_steps": 2, "seed": 7, "duration": seconds}
    body["audio_url"] = a_audio(seconds)
    with Engine(pipeline, threads=1) as engine:
        call = family.prepare(endpoint, body, pipeline, 1)
        result = engine.submit(**call.arguments).result(120)
    form, scratch = call.output_facts["audio"].form, Scratch()
    ticket = UploadTicket("key", "http://storage/0", form.media_type, 10**8)
    try:
        product = family.deliver(
            endpoint, call, GenerationResult(result, 1.0, 2, scratch), (ticket,)
        )
        heard = read(product.files[0].body)[0].shape[-1]
    finally:
        scratch.close()
    return "" if heard == form.samples else f"of {form.samples} samples it makes {heard}"


def _not_data(asked: Mapping[str, Any]) -> set[str]:
    """Arguments that no entry can hold, except the image."""
    return {name for name, value in asked.items() if not _is_data(value)} - {"image"}


def _is_data(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_data(item) for item in value)
    if isinstance(value, Mapping):
        return all(_is_data(item) for item in value.values())
    return value is None or isinstance(value, str | int | float | bool)


def _demanded(kind: Any) -> set[str]:
    """Required arguments that no entry passes."""
    known = list(inspect.signature(kind.__call__).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {
        parameter.name
        for parameter in known
        if parameter.default is parameter.empty and parameter.kind in named
    }
    return needed - {"image", "prompt"}


def _needs(kind: Any, name: str) -> bool:
    parameter = inspect.signature(kind.__call__).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


_HEAD = """# Media pipelines

The video and audio pipelines of diffusers {version} that an [entry in the
catalogue](catalogue.md#options) serves without code, each run from a request to a checked file with
tiny random weights. `python -m tests.deployments.media_classes --out
docs/reference/media-pipelines.md` generates this page.

Of {total} classes, {served} are served, {fit} accept the arguments but are not run (the tests have
no tiny parts for them), and {rest} are not served.

| task, or reason | served by an entry | classes |
|---|---|---|
"""


def page(findings: list[Finding]) -> str:
    count = {
        verdict: sum(entry.served == verdict for entry in findings)
        for verdict in (SERVED, FITS, NOT)
    }
    head = _HEAD.format(
        version=diffusers.__version__,
        total=len(findings),
        served=count[SERVED],
        fit=count[FITS],
        rest=count[NOT],
    )
    alike: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for served in (SERVED, FITS, NOT):
        for finding in findings:
            if finding.served == served:
                alike[finding.how, served].append(f"`{finding.name}`")
    rows = (
        f"| {how} | {served} | {', '.join(names)} |\n" for (how, served), names in alike.items()
    )
    return head + "".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="media_classes", description=__doc__)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="only these")
    parser.add_argument("--out", type=Path, help="where to write the page, in Markdown")
    options = parser.parse_args()
    be_quiet()
    findings: list[Finding] = []
    for name, kind in of_media().items():
        if not options.classes or name in options.classes:
            findings.append(examine(name, kind))
            sys.stdout.write(f"{findings[-1]}\n")
            sys.stdout.flush()
    if options.out:
        options.out.write_text(page(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
