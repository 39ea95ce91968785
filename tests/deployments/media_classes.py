"""Which of diffusers' pipelines of clips and sounds an entry of a catalogue alone serves; writes
the page of the docs that says so.

python -m tests.deployments.media_classes [--out docs/20-clips-and-sounds.md] [CLASS …]
"""

from __future__ import annotations

import argparse
import inspect
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from deployments.amendments import amended
from deployments.audio import AudioFamily
from deployments.call_mapping import mapping_of, parameters
from deployments.engine.clip_reading import GivenClip, read_clip
from deployments.engine.engine import Engine
from deployments.engine.sound_reading import GivenSound, read_sound
from deployments.family import Made
from deployments.scratch import Scratch
from deployments.video import NUMBERS_OF_FRAMES, TASKS, VideoFamily
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, Weights
from tests.deployments.clips import given, seen, tickets
from tests.engine.conformance import classes, zoo
from tests.engine.conformance.__main__ import be_quiet
from tests.engine.conformance.case import WISHES, Case
from tests.engine.test_clip_reading import clip
from tests.engine.test_sound import read
from tests.engine.test_sound_reading import sound

SERVED, FITS, NOT = "yes", "its arguments fit; not run", "no"
FRAMES, FPS = 5, 8
TILED = frozenset(
    {"AllegroPipeline"}
)  # their entries have `tiling: true`: they decode by tiles alone
NOT_DECODED = frozenset(
    {"MochiPipeline"}
)  # the tiny autoencoder has other channels than its latents

REASONS = {
    "EasyAnimateControlPipeline": "diffusers' own call of it fails",
    "LTX2LatentUpsamplePipeline": "it enlarges latents of another",
    "LTXLatentUpsamplePipeline": "it enlarges latents of another",
    "LTX2VideoDiffusionDecodePipeline": "it decodes latents of another",
}
"""Where the arguments do not tell it."""


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    served: str
    how: str  # the task, or why not


def of_media() -> dict[str, Any]:
    """The classes whose calls give frames or sounds, but those that diffusers gives up and those
    that lack a library here."""
    return {
        name: kind
        for name, kind in classes.exported().items()
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
    case = next((each for each in zoo.cases().values() if each.name == name), None)
    asked = dict(case.call(WISHES[0])) if case is not None else {}
    begun = {_taken(kind, asked, CLIPS), _taken(kind, asked, SOUNDS)}
    if more := sorted((_not_data(asked) | _demanded(kind)) - begun):
        wanted = ", ".join(f"`{each}`" for each in more)
        return Finding(name, NOT, f"it begins with {wanted}, which no task passes")
    endpoint = _entry(kind, asked) if _gives(kind, "frames") else _entry_of_sound(kind, asked)
    task = endpoint.options["task"]
    takes = parameters(kind)
    missing = {"num_inference_steps", "generator", "output_type"} - takes
    if missing:
        return Finding(name, NOT, f"its call takes no `{missing.pop()}`")
    if case is None or name in NOT_DECODED:
        return Finding(name, FITS, task)
    run = _run if endpoint.family == "video" else _run_sound
    wrong = run(case, endpoint, asked)
    return Finding(name, NOT if wrong else SERVED, wrong or task)


def _entry(kind: Any, asked: Mapping[str, Any]) -> Endpoint:
    """As a catalogue would have it. Of the case's own arguments, those that are data are fixed."""
    taken = _taken(kind, asked, CLIPS)
    passed = {"prompt", "width", "height", "image", "output_type", *NUMBERS_OF_FRAMES, taken}
    seeing = "image" in asked or _needs(kind, "image")
    clip = {"width": asked.get("width", 32), "height": asked.get("height", 32)}
    options = {
        "task": "video-to-video" if taken else "image-to-video" if seeing else "text-to-video",
        "video": taken,
        "pictures": "pillow",
        "multiple": 1,
        "clip": {**clip, "num_frames": FRAMES, "fps": FPS},
        "fixed": {key: value for key, value in asked.items() if key not in passed},
        "tiling": kind.__name__ in TILED,
    }
    endpoint = Endpoint("me/mine", "video", Weights("/"), "open", options=options)
    mapping_of(endpoint, TASKS)
    return endpoint


def _run(case: Case, endpoint: Endpoint, asked: Mapping[str, Any]) -> str:
    """What is wrong with the clip that comes of it; empty: nothing."""
    family, pipeline = VideoFamily(), amended(case.build(), endpoint)
    frames = next((asked[each] for each in NUMBERS_OF_FRAMES if each in asked), FRAMES)
    body = {"prompt": WISHES[0].prompt, "num_inference_steps": 2, "seed": 7, "num_frames": frames}
    side = int(endpoint.options["clip"]["width"])
    count = next((len(asked[each]) for each in CLIPS if each in asked), frames)
    pictures = {"image_url": given(side, side), "video_url": a_clip(count, side)}
    body = {**body, "num_frames": count} if endpoint.options["video"] else body
    with Engine(pipeline, threads=1) as engine, tempfile.TemporaryDirectory() as folder:
        call = family.prepare(endpoint, body | pictures, pipeline, 1)
        result = engine.submit(**call.arguments).result(120)
        scratch = Scratch()
        try:
            product = family.deliver(endpoint, call, Made(result, 1.0, 2, scratch), tickets())
            Path(folder, "clip.mp4").write_bytes(product.files[0].body.read_bytes())
        finally:
            scratch.close()
        clip = seen(Path(folder, "clip.mp4"))
    if not torch.isfinite(result.frames).all():
        return "it gives no numbers"
    wanted = call.facts["clip"].form
    shape = (len(clip.frames), *clip.size)
    if shape != (wanted.num_frames, wanted.width, wanted.height):
        return f"of {wanted.num_frames} frames it makes {len(clip.frames)}"
    return ""


CLIPS = ("video", "control_video", "conditioning_frames")
SOUNDS = ("audio", "src_audio")
"""What pipelines call a clip, or a sound, that they begin with."""


def _taken(kind: Any, asked: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The argument that takes it; None: it begins with none. Several are more than an entry has."""
    found = [each for each in names if each in asked or _needs(kind, each)]
    return found[0] if len(found) == 1 else None


def a_clip(frames: int, side: int) -> GivenClip:
    with tempfile.TemporaryDirectory() as folder:
        return read_clip(clip(Path(folder), frames=frames, size=(side, side)), "video_url")


def a_sound(seconds: float) -> GivenSound:
    with tempfile.TemporaryDirectory() as folder:
        return read_sound(sound(Path(folder), seconds=seconds, rate=16_000), "audio_url")


LENGTHS = ("audio_length_in_s", "audio_duration", "audio_duration_s", "duration")


def _entry_of_sound(kind: Any, asked: Mapping[str, Any]) -> Endpoint:
    length = next((each for each in LENGTHS if each in parameters(kind)), None)
    span = {"start": "audio_start_in_s", "end": "audio_end_in_s"}
    taken = _taken(kind, asked, SOUNDS)
    passed = {"prompt", "output_type", *LENGTHS, *span.values(), taken}
    options = {
        "task": "audio-to-audio" if taken else "text-to-audio",
        "sound": {**(span if length is None else {"length": length}), "given": taken},
        "fixed": {key: value for key, value in asked.items() if key not in passed},
    }
    return Endpoint("me/mine", "audio", Weights("/"), "open", options=options)


def _run_sound(case: Case, endpoint: Endpoint, asked: Mapping[str, Any]) -> str:
    """As ``_run``."""
    family, pipeline = AudioFamily(), case.build()
    seconds = next((asked[each] for each in LENGTHS if each in asked), 0.1)
    body = {"prompt": WISHES[0].prompt, "num_inference_steps": 2, "seed": 7, "duration": seconds}
    body["audio_url"] = a_sound(seconds)
    with Engine(pipeline, threads=1) as engine:
        call = family.prepare(endpoint, body, pipeline, 1)
        result = engine.submit(**call.arguments).result(120)
    form, scratch = call.facts["sound"].form, Scratch()
    ticket = UploadTicket("key", "http://storage/0", form.media_type, 10**8)
    try:
        product = family.deliver(endpoint, call, Made(result, 1.0, 2, scratch), (ticket,))
        heard = read(product.files[0].body)[0].shape[-1]
    finally:
        scratch.close()
    return "" if heard == form.samples else f"of {form.samples} samples it makes {heard}"


def _not_data(asked: Mapping[str, Any]) -> set[str]:
    """Arguments that no entry can hold, but the picture."""
    return {name for name, value in asked.items() if not _is_data(value)} - {"image"}


def _is_data(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_data(each) for each in value)
    if isinstance(value, Mapping):
        return all(_is_data(each) for each in value.values())
    return value is None or isinstance(value, str | int | float | bool)


def _demanded(kind: Any) -> set[str]:
    """Arguments without a default that nothing passes."""
    known = list(inspect.signature(kind.__call__).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {each.name for each in known if each.default is each.empty and each.kind in named}
    return needed - {"image", "prompt"}


def _needs(kind: Any, name: str) -> bool:
    found = inspect.signature(kind.__call__).parameters.get(name)
    return found is not None and found.default is found.empty


_HEAD = """# Pipelines of clips and sounds

Which of the pipelines of clips and sounds that diffusers {version} exports [an entry in the
catalogue](11-catalogue.md#any-other-model) serves, without a line of code. `python -m
tests.deployments.media_classes --out docs/20-clips-and-sounds.md` writes this page: each class is
made tiny with random weights, as for [the conformance](14-conformance.md), its entry has nothing
but data, and a request goes through the family, the engine and the encoder to a file, whose size
and number of frames, or samples, are looked at.

Of {total} classes, {served} are served, and {fit} take what the family passes but are not run here,
for want of tiny parts. {rest} are not.

| class | by an entry alone | task, or why not |
|---|---|---|
"""


def page(findings: list[Finding]) -> str:
    count = {each: sum(one.served == each for one in findings) for each in (SERVED, FITS, NOT)}
    head = _HEAD.format(
        version=diffusers.__version__,
        total=len(findings),
        served=count[SERVED],
        fit=count[FITS],
        rest=count[NOT],
    )
    return head + "".join(f"| `{each.name}` | {each.served} | {each.how} |\n" for each in findings)


def main() -> int:
    parser = argparse.ArgumentParser(prog="media_classes", description=__doc__)
    parser.add_argument("classes", nargs="*", metavar="CLASS", help="only these")
    parser.add_argument("--out", type=Path, help="where to write the page, in Markdown")
    asked = parser.parse_args()
    be_quiet()
    findings: list[Finding] = []
    for name, kind in of_media().items():
        if not asked.classes or name in asked.classes:
            findings.append(examine(name, kind))
            sys.stdout.write(f"{findings[-1]}\n")
            sys.stdout.flush()
    if asked.out:
        asked.out.write_text(page(findings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
