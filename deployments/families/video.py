"""Video family: any diffusers pipeline that makes frames from text, or from text and an image or a
video, as the endpoint's options say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from deployments.engine.interception.model_traits import KNOWN
from deployments.engine.media.video_format import MAX_GIF_FPS, VideoForm, even
from deployments.families.base import GenerationCall, GenerationResult, Product
from deployments.families.call_mapping import (
    PIXELS,
    STANDARD,
    CallMapping,
    adapter_arguments,
    adapter_set_up,
    as_families_read,
    check_arguments,
    chosen_results,
    load_checked,
    mapped_arguments,
    mapping_of,
    parameters,
    pipeline_class,
    pipeline_view,
    require_fields,
    view_to_call,
)
from deployments.families.image_io import Size, as_pixels, rendered_size, seed_of, side_multiple
from deployments.families.object_inputs import object_arguments, object_values
from deployments.families.options import (
    IMAGE_TO_VIDEO,
    TEXT_TO_VIDEO,
    VIDEO_TO_VIDEO,
    apply_options,
    main_file,
    requested_loras,
    required_files,
)
from deployments.families.video_io import FIELD as VIDEO_URL
from deployments.families.video_io import (
    VideoFacts,
    deliver_video,
    input_fps,
    input_frames,
    pad_frames,
    rendered_frames,
    requested_fps,
    requested_frames,
    video_frames,
    video_size,
)
from deployments.families.video_recorder import VideoRecorder
from deployments.families.warm_up import warm_up_input
from deployments.transfer.lora_fetcher import RequestedLora
from serve_app.domain.artifact import MEDIA_TYPES, UploadTicket
from serve_app.domain.endpoint import Endpoint, RequestedWork
from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import IMAGE_TYPES, DeclaredInput, InputType

if TYPE_CHECKING:
    from PIL.Image import Image

TASKS = {
    TEXT_TO_VIDEO: frozenset[str](),
    IMAGE_TO_VIDEO: frozenset({"image"}),
    VIDEO_TO_VIDEO: frozenset({"video"}),
}
OPTIONAL = frozenset({"prompt", "width", "height", "num_frames", "frame_rate", "fps"})
"""Arguments that are passed only to pipelines that take them."""

AUDIO_RATE, AUDIO_CHANNELS = 48_000, 2
"""Form of audio for pipelines that do not state a rate."""

NUMBERS_OF_FRAMES = ("num_frames", "frames", "video_length")
"""Names that pipelines use for the number of frames."""

WARM_UP = {
    "image_size": {"width": 832, "height": 480},
    "num_frames": 5,  # two latent frames of most models: the minimum for a typical step
    "frames_per_second": 16,
    "output_format": None,
}


class VideoFamily:
    """Family of video endpoints. Options: ``video_format``, ``dtype``, and those of
    ``CallMapping`` and ``apply_options``."""

    name = "video"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        return apply_options(load_checked(endpoint, mapping_of(endpoint, TASKS), device), endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        return self.prepare(endpoint, warm_up_input(endpoint, **WARM_UP), pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        mapping = mapping_of(endpoint, TASKS)
        input = as_families_read(mapping, input)  # noqa: A001
        called = pipeline_class(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, which may have been loaded with another one's options.
        check_arguments(endpoint, mapping, called)
        takes = parameters(called) - KNOWN.exact(called).unplaced(pipeline)
        if not mapping.inputs:
            words = ("prompt",) if "prompt" in takes else ()
            require_fields(input, *words, "num_inference_steps", *required_files(endpoint))
        multiple = mapping.multiple or side_multiple(pipeline)
        main_input = main_file(endpoint, input)
        given_size = None if main_input is None else Size(*main_input.size)
        requested = video_size(endpoint, input, multiple, given_size)
        rendered = rendered_size(requested, multiple, mapping.native_size)
        fps, count, video = _frames(endpoint, mapping, input, rendered, pipeline)
        form = _form(input, requested, fps, count)
        # Frames that the pipeline makes first and that do not belong to the video.
        left_out = KNOWN.exact(called).dropped_frames(pipeline)
        rendered_count = rendered_frames(form.num_frames + left_out, _compression(pipeline))
        latent_frames = (rendered_count - 1) // _compression(pipeline) + 1
        _require_frame_of_each(mapping, input, called, latent_frames)
        steps = input.get("num_inference_steps")
        arguments = {
            "prompt": input.get("prompt"),
            "num_inference_steps": None if steps is None else int(steps),
            "generator": _generator(seed_of(input, seed)),
            "output_type": "pt",
            "width": rendered.width,
            "height": rendered.height,
            _number_of_frames(takes): rendered_count,
            "frame_rate": float(form.fps),
            **mapping.fixed,
            **mapped_arguments(mapping, input),
            **_images(mapping, input, rendered, takes),
            **adapter_arguments(mapping, input),
            **video,
            **_objects(mapping, input, called, _ObjectFiles(pipeline, rendered, form)),
            **_of_blocks(called, form),
        }
        not_taken = OPTIONAL - takes
        if mapping.inputs:
            not_taken |= {
                argument
                for argument in STANDARD
                if argument not in takes or arguments[argument] is None
            }
        facts = _facts(form, input, seed, pipeline)
        recorded = KNOWN.exact(called).decodes_last
        return GenerationCall(
            {name: value for name, value in arguments.items() if name not in not_taken},
            {"video": facts},
            recording=VideoRecorder(form, facts.audio_rate, left_out) if recorded else None,
            view=_view(endpoint, mapping, input, pipeline, called),
            set_up=adapter_set_up(mapping, input),
            work=RequestedWork(rendered.width, rendered.height, rendered_count),
        )

    def loras(self, input: Mapping[str, Any]) -> Sequence[RequestedLora]:
        return requested_loras(input)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_video(endpoint, call, generated, tickets)


def _frames(
    endpoint: Endpoint,
    mapping: CallMapping,
    input: Mapping[str, Any],
    rendered: Size,
    pipeline: Any,
) -> tuple[Fraction, int, dict[str, Any]]:
    """Frame rate and number of frames to deliver, and the arguments with frames of videos."""
    videos = _videos(mapping, input)
    if not videos:
        fps = requested_fps(endpoint, input)
        return fps, requested_frames(endpoint, input, fps), {}
    main, compression = next(iter(videos)), _compression(pipeline)
    fps = input_fps(endpoint, input, main)
    frames = {name: input_frames(endpoint, input, fps, rendered, name) for name in videos}
    passed = {videos[name]: pad_frames(clip, compression) for name, clip in frames.items()}
    return fps, len(frames[main]), passed


def _videos(mapping: CallMapping, input: Mapping[str, Any]) -> Mapping[str, str]:
    """Fields with input videos, the main one first, and the arguments that take their frames."""
    if not mapping.inputs:
        return {VIDEO_URL: mapping.video} if mapping.task == VIDEO_TO_VIDEO else {}
    return {
        name: field.argument
        for name, field in mapping.inputs.items()
        if field.type is InputType.VIDEO and input.get(name) is not None
    }


def _form(input: Mapping[str, Any], requested: Size, fps: Fraction, frames: int) -> VideoForm:
    media_type = MEDIA_TYPES[str(input.get("output_format") or "mp4")]
    if media_type == MEDIA_TYPES["gif"] and fps > MAX_GIF_FPS:
        message = f"a GIF has at most {MAX_GIF_FPS} frames per second; use mp4 or webm"
        raise InvalidInput.of_field("output_format", message)
    halves = media_type == MEDIA_TYPES["mp4"]
    return VideoForm(
        media_type,
        even(requested.width) if halves else requested.width,
        even(requested.height) if halves else requested.height,
        fps,
        frames,
        input.get("video_quality") or "high",
        input.get("video_write_mode") or "balanced",
    )


def _of_blocks(called: type, form: VideoForm) -> dict[str, Any]:
    """Arguments of modular pipelines alone. To whole ones, ``fps`` means other things."""
    results = chosen_results(called)
    whole = form.fps.denominator == 1
    return {**results, "fps": form.fps.numerator if whole else float(form.fps)} if results else {}


def _facts(form: VideoForm, input: Mapping[str, Any], seed: int, pipeline: Any) -> VideoFacts:
    rate = getattr(getattr(pipeline, "vocoder", None), "config", {}).get("output_sampling_rate")
    if rate is None and "audio" in chosen_results(type(pipeline)).get("output", ()):
        rate = pipeline.audio_sampling_rate
    if input.get("generate_audio") is False or form.media_type == MEDIA_TYPES["gif"]:
        rate = None
    return VideoFacts(form, seed_of(input, seed), input.get("prompt") or "", rate)


def _generator(seed: int) -> Any:
    import torch  # noqa: PLC0415

    return torch.Generator("cpu").manual_seed(seed)


def _compression(pipeline: Any) -> int:
    """Number of frames per latent frame. The first frame has a latent frame of its own."""
    for name in ("vae_scale_factor_temporal", "vae_temporal_compression_ratio"):
        if (factor := getattr(pipeline, name, None)) is not None:
            return int(factor)
    return 1


def _number_of_frames(takes: frozenset[str]) -> str:
    return next((name for name in NUMBERS_OF_FRAMES if name in takes), NUMBERS_OF_FRAMES[0])


def _require_frame_of_each(
    mapping: CallMapping, input: Mapping[str, Any], called: type, latent_frames: int
) -> None:
    """Raise ``InvalidInput`` for more images than the pipeline has latent frames for."""
    argument = KNOWN.exact(called).one_for_each_latent_frame
    for name, declared in mapping.inputs.items():
        if declared.argument != argument or not isinstance(images := input.get(name), list):
            continue
        if len(images) > latent_frames:
            message = f"A video of this length takes at most {latent_frames} of these images"
            raise InvalidInput.of_field(name, message, "sequence_too_long")


def _images(
    mapping: CallMapping, input: Mapping[str, Any], rendered: Size, takes: frozenset[str]
) -> dict[str, Any]:
    """Arguments that take input images, such as the first and the last frame: at the rendered
    size, unless they keep their own."""
    from deployments.engine.media.images import fit  # noqa: PLC0415

    if mapping.inputs:
        images = {
            name: spec
            for name, spec in mapping.inputs.items()
            if spec.type in IMAGE_TYPES and not spec.is_adapters
        }
        by_argument = {spec.argument: input.get(name) for name, spec in images.items()}
        kept = {spec.argument for spec in images.values() if spec.keeps_size}
    elif mapping.task == IMAGE_TO_VIDEO:
        by_argument = {"image": input["image_url"], "last_image": input.get("end_image_url")}
        kept = set[str]()
    else:
        return {}
    if by_argument.get("last_image") is not None and "last_image" not in takes:
        names = (name for name, spec in mapping.inputs.items() if spec.argument == "last_image")
        field = next(names, "end_image_url")
        raise InvalidInput.of_field(field, "these weights take no last frame")

    def form(image: Image | list[Image]) -> Any:
        if isinstance(image, list):
            return [*map(form, image)]
        fitted = fit(image, rendered.width, rendered.height)
        return as_pixels(fitted, rendered) if mapping.images == PIXELS else fitted

    return {
        argument: image if argument in kept else form(image)
        for argument, image in by_argument.items()
        if image
    }


@dataclass(frozen=True, slots=True)
class _ObjectFiles:
    """Form of files in objects: images and frames in the size of the video, unless they keep their
    own, and frames at its rate."""

    pipeline: Any
    rendered: Size
    form: VideoForm
    videos: int = 1  # of the input: they share the memory

    def __call__(self, declared: DeclaredInput, file: Any, at: str) -> Mapping[str, Any]:
        from deployments.engine.media.images import fit  # noqa: PLC0415

        match declared.type:
            case InputType.VIDEO:
                size = Size(*file.size) if declared.as_is else self.rendered
                fps, limit = self.form.fps, self.form.num_frames
                frames = video_frames(file, at, fps, size, limit, self.videos)
                padded = pad_frames(frames, _compression(self.pipeline))
                return {declared.argument: padded, "fps": float(fps)}
            case InputType.AUDIO:
                import torch  # noqa: PLC0415

                rate = getattr(self.pipeline, "audio_sampling_rate", None) or AUDIO_RATE
                samples = file.samples(rate, AUDIO_CHANNELS, self.form.duration_s)
                return {declared.argument: torch.from_numpy(samples), "sample_rate": rate}
            case _ if declared.as_is:
                return {declared.argument: file}
            case _:
                return {declared.argument: fit(file, self.rendered.width, self.rendered.height)}


def _objects(
    mapping: CallMapping, input: Mapping[str, Any], called: type, files: _ObjectFiles
) -> dict[str, Any]:
    """Arguments that take lists of objects. ``InvalidInput`` names a place in time that the video
    does not have."""
    compression, frames = _compression(files.pipeline), files.form.num_frames
    latents = (rendered_frames(frames, compression) - 1) // compression + 1
    places = {"frame_index": range(frames), "index": range(-latents, latents)}
    values = [*object_values(mapping.inputs, input)]
    for at, declared, value in values:
        allowed = places.get(declared.argument)
        if allowed is not None and value not in allowed:
            limits = f"{allowed.start} to {allowed.stop - 1}"
            message = f"Input should be from {limits} for a video of {frames} frames"
            raise InvalidInput.of_field(at, message)
    videos = sum(field.type is InputType.VIDEO for _, field, _ in values)
    return object_arguments(mapping.inputs, input, called, replace(files, videos=max(videos, 1)))


def _view(
    endpoint: Endpoint, mapping: CallMapping, input: Mapping[str, Any], pipeline: Any, called: type
) -> Any:
    """Pipeline to call in place of the loaded one. None: the loaded one itself."""
    view = view_to_call(endpoint, mapping, input, pipeline, called)
    if (shift := input.get("shift")) is not None:
        from deployments.engine.interception.pipeline import with_shift  # noqa: PLC0415

        view = pipeline_view(endpoint, pipeline, called) if view is None else view
        view.scheduler = with_shift(pipeline.scheduler, float(shift))
    return view
