"""Entry of the catalogue for a repository that was inspected: family, schema and options by the
pipeline's class and arguments, or copied from a similar endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from serve_app.cli.inspection.pipeline_call import REQUIRED, PipelineCall
from serve_app.cli.inspection.repository import Repository
from serve_app.domain.errors import Misconfigured

Entry = dict[str, Any]
Config = Callable[[str], Mapping[str, Any]]
"""Settings of a component of the pipeline, by its name."""

FLUX, SDXL = "FluxPipeline", "StableDiffusionXLPipeline"
FAMILY_OF_CLASS = {FLUX: "flux", SDXL: "sdxl"}
FAMILY_OF_OUTPUT = {"image": "generic", "video": "video", "audio": "audio"}

DENOISERS = ("transformer", "unet")
STANDARD = ("num_inference_steps", "generator", "output_type")
PROMPT = "prompt"
FROM_REQUESTS = frozenset({PROMPT, "image", "mask_image", "video", "control_video"})
"""Required arguments that a request gives."""

VIDEOS = ("video", "control_video")
CONTROLS = frozenset({"control_image", "controlnet_conditioning_scale"})
"""Arguments of pipelines that need a control image, which is not required by their signature."""

LENGTHS = ("audio_length_in_s", "audio_duration", "audio_duration_s", "duration")
SPAN = {"start": "audio_start_in_s", "end": "audio_end_in_s"}
NUMBERS_OF_FRAMES = ("num_frames", "frames", "video_length")

USUAL_VIDEO = {"width": 832, "height": 480, "num_frames": 49, "fps": 16}
USUAL_SECONDS = 30
NOT_COPIED = frozenset(
    {"demo", "cpu", "weights", "display_name", "description", "licence", "readme", "examples"}
)
"""Keys of another entry that describe its own weights."""


def like(source_id: str, source: Mapping[str, Any], call: PipelineCall) -> Entry:
    """Copy of the entry ``source``. ``Misconfigured``: it does not fit the pipeline."""
    entry = {key: value for key, value in source.items() if key not in NOT_COPIED}
    family = str(entry["family"])
    own = FAMILY_OF_CLASS.get(call.name, FAMILY_OF_OUTPUT[call.output])
    if family in {*FAMILY_OF_CLASS.values(), *FAMILY_OF_OUTPUT.values()} and family != own:
        raise Misconfigured(
            f"--like {source_id} is of the family {family}, which does not fit: {call.name} is of "
            f"the family {own}. Name an endpoint of that family, or leave out --like."
        )
    options = cast("Mapping[str, Any]", entry.get("options", {}))
    if "pipeline" not in options and own == family and own in FAMILY_OF_OUTPUT.values():
        mapped = {*options.get("arguments", {}).values(), *options.get("fixed", {})}
        if unknown := sorted(mapped - call.arguments.keys()):
            raise Misconfigured(
                f"--like {source_id} does not fit: {call.name} has no argument "
                f"{', '.join(unknown)}. Leave out --like."
            )
    return entry


def proposed(call: PipelineCall, config: Config) -> Entry:
    """Entry by the class and its arguments. ``Misconfigured``: no family can call it."""
    standard = STANDARD if call.output == "video" else (*STANDARD, PROMPT)
    if missing := [each for each in standard if each not in call.arguments]:
        raise Misconfigured(
            f"{call.name} cannot be served without code: its call takes no {missing[0]}. Write a "
            "family for it: docs/how-to/write-a-family.md."
        )
    if CONTROLS & call.arguments.keys():
        raise Misconfigured(
            f"{call.name} needs a control image, which no field of a request gives. Write a family "
            "for it: docs/how-to/write-a-family.md."
        )
    if more := sorted(call.required - FROM_REQUESTS):
        raise Misconfigured(
            f"{call.name} needs {', '.join(more)}, which no field of a request gives. If the value "
            "is constant, write the entry in a catalogue file, under `options.fixed`."
        )
    if call.name == FLUX:
        return _flux(config)
    if call.name == SDXL:
        entry: Entry = {"family": "sdxl", "schema": "sdxl-text-to-image"}
        return entry | {"options": {"task": "text-to-image", "dtype": "float16"}}
    by_output = {"image": _image, "video": _video, "audio": _audio}
    return by_output[call.output](call, config)


def _flux(config: Config) -> Entry:
    guided = config("transformer").get("guidance_embeds", True)
    steps = 28 if guided else 4
    return {
        "family": "flux",
        "schema": "flux-text-to-image",
        "defaults": {"num_inference_steps": steps, "guidance_scale": 3.5},
        "options": {"task": "text-to-image", "dtype": "bfloat16"},
    }


def _image(call: PipelineCall, config: Config) -> Entry:
    task = _image_task(call)
    if task == "inpainting":
        schema, fields = "sdxl-inpainting", ("guidance_scale", "negative_prompt", "strength")
    elif task == "image-to-image":
        schema, fields = "flux-image-to-image", ("guidance_scale", "strength")
    elif "guidance_scale" not in call.arguments:
        schema, fields = "z-image-text-to-image", ()
    elif "negative_prompt" in call.arguments:
        schema, fields = "qwen-image-text-to-image", ("guidance_scale", "negative_prompt")
    else:
        schema, fields = "flux-text-to-image", ("guidance_scale",)
    defaults = _defaults(call, ("num_inference_steps", "guidance_scale", "strength"), fields)
    if task == "text-to-image" and (size := _native_size(config)):
        defaults["image_size"] = {"width": size, "height": size}
    return {
        "family": "generic",
        "schema": schema,
        "category": "text-to-image" if task == "text-to-image" else "image-to-image",
        "defaults": defaults,
        "options": {"task": task, "dtype": "bfloat16", "arguments": _mapped(call, fields)},
    }


def _image_task(call: PipelineCall) -> str:
    if "mask_image" in call.arguments:
        return "inpainting"
    redraws = "strength" in call.arguments or any(
        part in call.name for part in ("Img2Img", "Kontext", "Edit", "InstructPix2Pix")
    )
    if "image" in call.required or ("image" in call.arguments and redraws):
        return "image-to-image"
    return "text-to-image"


def _video(call: PipelineCall, config: Config) -> Entry:
    video = next((each for each in VIDEOS if each in call.arguments), None)
    takes_image = "image" in call.arguments
    starts_with_image = "ImageTo" in call.name or "I2V" in call.name or "image" in call.required
    if video is not None and "image" not in call.required:
        task, schema = "video-to-video", "video-to-video"
    elif takes_image and starts_with_image:
        task, schema = "image-to-video", "ltx-image-to-video"
    else:
        task, schema = "text-to-video", "ltx-text-to-video"
    frames = next((each for each in NUMBERS_OF_FRAMES if each in call.arguments), "")
    arguments = {
        "width": call.arguments.get("width"),
        "height": call.arguments.get("height"),
        "num_frames": call.arguments.get(frames),
        "fps": call.arguments.get("frame_rate"),
    }
    stated = {key: int(each) for key, each in arguments.items() if isinstance(each, int | float)}
    if not {"width", "height"} <= stated.keys() and (size := _native_size(config)):
        stated |= {"width": size, "height": size}
    fields = ("guidance_scale", "negative_prompt")
    options: Entry = {
        "task": task,
        "dtype": "bfloat16",
        "video_format": USUAL_VIDEO | stated,
        "arguments": _mapped(call, fields),
    }
    if task == "image-to-video":
        options["images"] = "pillow"
    if task == "video-to-video" and video != VIDEOS[0]:
        options["video"] = video
    return {
        "family": "video",
        "schema": schema,
        "category": task,
        "defaults": _defaults(call, ("num_inference_steps", "guidance_scale"), fields),
        "options": options,
    }


def _audio(call: PipelineCall, config: Config) -> Entry:
    del config
    length = next((each for each in LENGTHS if each in call.arguments), None)
    if length is None and not set(SPAN.values()) <= call.arguments.keys():
        raise Misconfigured(
            f"{call.name} takes no duration by a known name ({', '.join(LENGTHS)}). Write the "
            "entry in a catalogue file, with `options.audio_format`."
        )
    form = SPAN if length is None else {"length": length, "most_seconds": USUAL_SECONDS}
    steps = call.arguments["num_inference_steps"]
    return {
        "family": "audio",
        "schema": "stable-audio-text-to-audio",
        "category": "text-to-audio",
        "defaults": {"steps": steps} if isinstance(steps, int) else {},
        "options": {
            "task": "text-to-audio",
            "dtype": "float16",
            "audio_format": {**form, "output": "audio_file"},
        },
    }


def _mapped(call: PipelineCall, fields: tuple[str, ...]) -> Mapping[str, str]:
    """Field → argument, of the fields that the pipeline takes."""
    mapped = {field: field for field in fields if field in call.arguments}
    # Pipelines of distilled models whose own guidance is another argument, such as Qwen-Image.
    if call.arguments.get("guidance_scale", 0) is None and "true_cfg_scale" in call.arguments:
        mapped["guidance_scale"] = "true_cfg_scale"
    return mapped


def _defaults(call: PipelineCall, names: tuple[str, ...], fields: tuple[str, ...]) -> Entry:
    """Defaults of the pipeline for the fields that reach it."""
    arguments = {"num_inference_steps": "num_inference_steps", **_mapped(call, fields)}
    found = {name: call.arguments.get(arguments[name]) for name in names if name in arguments}
    return {
        name: value
        for name, value in found.items()
        if value is not REQUIRED and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _native_size(config: Config) -> int | None:
    """Side in pixels of the images that the denoiser was made for; None if it does not say."""
    blocks = config("vae").get("block_out_channels")
    scale = 2 ** (len(cast("list[int]", blocks)) - 1) if isinstance(blocks, list) else 8
    for name in DENOISERS:
        size = config(name).get("sample_size")
        if isinstance(size, int):
            return size * scale
    return None


def completed(entry: Entry, repository: Repository, **given: str | None) -> Entry:
    """Entry with the weights, the licence and the keys that the operator has ``given``."""
    facts = {"licence": repository.licence} | {k: v for k, v in given.items() if v is not None}
    return {
        **entry,
        "weights": dict(repository.weights),
        **{key: value for key, value in facts.items() if value},
    }
