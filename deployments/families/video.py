"""The family for clips: any pipeline of diffusers that makes frames from text, or from text and a
picture or a clip, as the options of an endpoint say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from deployments.adapter_input import AskedAdapter, asked_adapters
from deployments.amendments import amended
from deployments.call_mapping import PIXELS, CallMapping, check, mapping_of, parameters
from deployments.called_pipeline import called_by, loaded, view_for
from deployments.clip_form import MOST_GIF_FPS, ClipForm, even
from deployments.clip_input import filled_up, given_fps, given_frames
from deployments.clip_output import ClipFacts, deliver_clip
from deployments.clip_size import asked_fps, asked_frames, clip_size, rendered_frames
from deployments.engine.families.known import KNOWN
from deployments.family import GenerationCall, Made, Product
from deployments.first_input import first_input
from deployments.mapped_fields import mapped, need
from deployments.picture_input import as_pixels
from deployments.picture_output import seed_of
from deployments.picture_size import Size, rendered_size
from deployments.recording import Recording
from deployments.side_multiple import side_multiple
from deployments.task import IMAGE_TO_VIDEO, TEXT_TO_VIDEO, VIDEO_TO_VIDEO, begins_with
from serve_app.domain.artifact import MEDIA_TYPES, UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput

TASKS = {
    TEXT_TO_VIDEO: frozenset[str](),
    IMAGE_TO_VIDEO: frozenset({"image"}),
    VIDEO_TO_VIDEO: frozenset({"video"}),
}
OPTIONAL = frozenset({"prompt", "width", "height", "num_frames", "frame_rate"})
"""Arguments that a pipeline gets if it takes them."""

NUMBERS_OF_FRAMES = ("num_frames", "frames", "video_length")
"""What pipelines call it."""

WARM_UP = {
    "image_size": {"width": 832, "height": 480},
    "num_frames": 5,  # two of the latents of most models: as many as a step needs to be usual
    "frames_per_second": 16,
    "output_format": None,
}


class VideoFamily:
    """Options of its endpoints: those of ``CallMapping``, ``clip``, ``dtype``, and those of
    ``amendments``."""

    name = "video"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        return amended(loaded(endpoint, mapping_of(endpoint, TASKS), device), endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(endpoint, first_input(endpoint, **WARM_UP), pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        mapping = mapping_of(endpoint, TASKS)
        called = called_by(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, and another one's options may have loaded these.
        check(endpoint, mapping, called)
        takes = parameters(called)
        words = ("prompt",) if "prompt" in takes else ()
        need(input, *words, "num_inference_steps", *begins_with(mapping.task))
        multiple = mapping.multiple or side_multiple(pipeline)
        asked = clip_size(endpoint, input, multiple, _given(mapping, input))
        rendered = rendered_size(asked, multiple, mapping.native_size)
        clip: dict[str, Any] = {}
        if mapping.task == VIDEO_TO_VIDEO:
            fps = given_fps(endpoint, input)
            frames = given_frames(endpoint, input, fps, rendered)
            clip = {mapping.video: filled_up(frames, _compression(pipeline))}
            count = len(frames)
        else:
            fps = asked_fps(endpoint, input)
            count = asked_frames(endpoint, input, fps)
        form = _form(input, asked, fps, count)
        # Frames that the pipeline makes first, and that are none of the clip.
        left_out = KNOWN.of_itself(called).leaves_out(pipeline)
        arguments = {
            "prompt": input.get("prompt"),
            "num_inference_steps": int(input["num_inference_steps"]),
            "generator": _generator(seed_of(input, seed)),
            "output_type": "pt",
            "width": rendered.width,
            "height": rendered.height,
            _number_of_frames(takes): rendered_frames(
                form.num_frames + left_out, _compression(pipeline)
            ),
            "frame_rate": float(form.fps),
            **mapping.fixed,
            **mapped(mapping, input),
            **_pictures(mapping, input, rendered, takes),
            **clip,
        }
        not_taken = OPTIONAL - takes
        facts = _facts(form, input, seed, pipeline)
        recorded = KNOWN.of_itself(called).decodes_last
        return GenerationCall(
            {name: value for name, value in arguments.items() if name not in not_taken},
            {"clip": facts},
            recording=Recording(form, facts.sound_rate, left_out) if recorded else None,
            view=_view(endpoint, mapping, input, pipeline, called),
        )

    def adapters(self, input: Mapping[str, Any]) -> Sequence[AskedAdapter]:
        return asked_adapters(input)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_clip(endpoint, call, made, tickets)


def _form(input: Mapping[str, Any], asked: Size, fps: Fraction, frames: int) -> ClipForm:
    media_type = MEDIA_TYPES[str(input.get("output_format") or "mp4")]
    if media_type == MEDIA_TYPES["gif"] and fps > MOST_GIF_FPS:
        message = f"a GIF has at most {MOST_GIF_FPS} frames a second; take mp4 or webm"
        raise InvalidInput.of_field("output_format", message)
    halves = media_type == MEDIA_TYPES["mp4"]
    return ClipForm(
        media_type,
        even(asked.width) if halves else asked.width,
        even(asked.height) if halves else asked.height,
        fps,
        frames,
        input.get("video_quality") or "high",
        input.get("video_write_mode") or "balanced",
    )


def _facts(form: ClipForm, input: Mapping[str, Any], seed: int, pipeline: Any) -> ClipFacts:
    rate = getattr(getattr(pipeline, "vocoder", None), "config", {}).get("output_sampling_rate")
    if input.get("generate_audio") is False or form.media_type == MEDIA_TYPES["gif"]:
        rate = None
    return ClipFacts(form, seed_of(input, seed), input.get("prompt") or "", rate)


def _generator(seed: int) -> Any:
    import torch  # noqa: PLC0415

    return torch.Generator("cpu").manual_seed(seed)


def _compression(pipeline: Any) -> int:
    """Frames that are one in the latents, but for the first."""
    for name in ("vae_scale_factor_temporal", "vae_temporal_compression_ratio"):
        if (told := getattr(pipeline, name, None)) is not None:
            return int(told)
    return 1


def _number_of_frames(takes: frozenset[str]) -> str:
    return next((each for each in NUMBERS_OF_FRAMES if each in takes), NUMBERS_OF_FRAMES[0])


def _given(mapping: CallMapping, input: Mapping[str, Any]) -> Size | None:
    field = next(iter(begins_with(mapping.task)), None)
    return Size(*input[field].size) if field is not None else None


def _pictures(
    mapping: CallMapping, input: Mapping[str, Any], rendered: Size, takes: frozenset[str]
) -> dict[str, Any]:
    """The frames to begin and to end with, in the size that is rendered."""
    if mapping.task != IMAGE_TO_VIDEO:
        return {}
    from deployments.engine.media import fit  # noqa: PLC0415

    given = {"image": input["image_url"], "last_image": input.get("end_image_url")}
    if given["last_image"] is not None and "last_image" not in takes:
        raise InvalidInput.of_field("end_image_url", "this model does not take a last frame")
    fitted = {
        name: fit(picture, rendered.width, rendered.height)
        for name, picture in given.items()
        if picture is not None
    }
    if mapping.pictures == PIXELS:
        return {name: as_pixels(picture, rendered) for name, picture in fitted.items()}
    return fitted


def _view(
    endpoint: Endpoint, mapping: CallMapping, input: Mapping[str, Any], pipeline: Any, called: type
) -> Any:
    """The pipeline to call in place of the loaded one; None: that one."""
    shift = input.get("shift")
    if mapping.pipeline is None and shift is None:
        return None
    view = view_for(endpoint, pipeline, called)
    if shift is not None:
        from deployments.engine.solver import shifted  # noqa: PLC0415

        view.register_modules(scheduler=shifted(pipeline.scheduler, float(shift)))
    return view
