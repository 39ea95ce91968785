"""Inputs of an endpoint, derived from the arguments of a pipeline's call.

Fields have fal's names where fal has one for what they hold, such as ``image_url`` for ``image``,
and the argument's own name otherwise. An argument that no request can give, such as a tensor, has
no field.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.cli.inspection.control_nets import CONTROL, ControlNets
from serve_app.cli.inspection.ip_adapters import (
    OF_MODULAR,
    WITHOUT_ADAPTER,
    adapter_fields,
    check_adapters,
)
from serve_app.cli.inspection.pipeline_call import LAYERS, Argument, PipelineCall, combined_words
from serve_app.domain.errors import Misconfigured
from serve_app.domain.media.image_size import MIN_SIDE
from serve_app.domain.pipeline_index import IP_ADAPTER
from serve_app.options.inputs import ADAPTER_IMAGES, FILES, MESSAGES, STEPS

Declared = dict[str, Any]
"""A ``DeclaredInput`` as an entry writes it."""

PROMPT = "prompt"
SIDES = frozenset({"width", "height"})
COUNT = "num_images_per_prompt"
NUMBERS_OF_FRAMES = ("num_frames", "frames", "video_length")
LENGTHS = ("audio_length_in_s", "audio_duration", "audio_duration_s", "duration")
SPAN = ("audio_start_in_s", "audio_end_in_s")

BY_FAMILY = frozenset(
    {
        *("output_type", "return_dict", "generator", "frame_rate", "fps"),
        *(*SIDES, COUNT, "num_videos_per_prompt", "num_waveforms_per_prompt"),
        *(*NUMBERS_OF_FRAMES, *LENGTHS, *SPAN, "driving_video_fps"),
    }
)
"""Arguments that the family gives, from fields that every endpoint of its kind has."""

INTERNAL = frozenset(
    {
        *("debug", "batch_size", "seed"),
        *("output_uncertainty", "output_latent"),
        "frame_size",  # of views of a mesh
    }
)
"""Arguments that change no result that is delivered, or that generators and the engine's batches
are in place of."""

NAMES = {
    "image": "image_url",
    "images": "image_urls",
    "input_images": "image_urls",
    "mask": "mask_url",
    "mask_image": "mask_url",
    "last_image": "end_image_url",
}
"""Argument with a file → field, where fal's name is not made from the argument's."""

VIDEO = "video"
AUDIO = ("audio", "src_audio", "initial_audio_waveforms")
NEEDED = {
    "mask_image": "Inpaint",
    CONTROL: "Control",
    "control_mask": "Inpaint",
    "control_mode": "Union",
    VIDEO: "VideoToVideo",
    "gligen_boxes": "GLIGEN",
    "gligen_phrases": "GLIGEN",
    "conditioning_frames": "ControlNet",
}
"""Argument → part of the names of the classes that fail without it, although it has a default."""

KEPT = ("reference", "ref_", "example", "style", "subject", "source")
"""Parts of names of images that the pipeline brings into its own size."""

EDITORS = ("Flux2", "Flux3", "QwenImage21", "EditPlus")
"""Parts of names of modular pipelines that edit several images at once."""

MAX_WINDOW = 1000

SHARES = ("strength", "start", "end", "_noise_scale")
"""Ends of names of numbers from 0 to 1."""

UNSERVED = {
    "VisualClozePipeline": "its image is a grid of rows of examples",
    "VisualClozeGenerationPipeline": "its image is a grid of rows of examples",
}
"""Classes whose call does not say that a request cannot make it, with the reason."""

RESAMPLING = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
CHOICES: Mapping[str, Mapping[str, tuple[str | int, ...]]] = {
    "QwenImageLayered": {"resolution": (640, 1024)},
    "WanAnimate": {"mode": ("animate", "replace")},
    "DiffusionGemma": {"cache_implementation": ("static",)},
    "LLaDA2": {"sampling_method": ("auto", "greedy", "multinomial")},
    "Marigold": {"resample_method_input": RESAMPLING, "resample_method_output": RESAMPLING},
}
"""Beginning of a class's name → argument → its only values, where the annotation does not say them.
"""

MAX_TOKENS = 32_768
BOUNDS: Mapping[str, Mapping[str, float]] = {
    "control_mode": {"least": 0},  # an index: a union fails on the device with another
    STEPS: {"least": 1},
    "block_length": {"least": 1, "most": MAX_TOKENS},
    "clip_skip": {"least": 0, "most": 11},  # of the twelve layers of the smallest encoder
    "decode_chunk_size": {"least": 1},
    "confidence_threshold": {"least": 0},
    "ensemble_size": {"least": 1, "most": 50},
    "eta": {"least": 0, "most": 1},
    "gen_length": {"least": 1, "most": MAX_TOKENS},
    "max_post_steps": {"least": 0, "most": 1000},
    "max_sequence_length": {"least": 1},
    "minimal_topk": {"least": 1},
    "processing_resolution": {"least": 0},
    "segment_frame_length": {"least": 1},
    "stability_threshold": {"least": 1, "most": 1000},
    "temperature": {"least": 0},
    "threshold": {"least": 0},
    "top_k": {"least": 0},
    "top_p": {"least": 0.01, "most": 1},
}
"""Argument with a number → its bounds."""

ROWS = "list[list[float]]"
COLUMNS: Mapping[str, Declared] = {
    "gligen_boxes": {"columns": 4, "item_least": 0, "item_most": 1},
}
"""Argument with a list of lists of numbers → how many these are, and their bounds."""

OTHER_PROMPTS = frozenset({MESSAGES, "use_en_prompt"})
"""Arguments of pipelines that need no prompt: with a conversation in its place, or that describe
the image by themselves."""

OF_FILE = frozenset({"fps", "sample_rate"})
"""Attributes of objects that say how their file was decoded."""

CONDITIONS = "conditions"
"""End of the names of lists of objects whose files are parts of the result: they get its size."""

OBJECTS: Mapping[str, Declared] = {
    "prompt_segments": {
        "fields": {
            "start_window": {"type": "integer", "least": 0, "most": MAX_WINDOW, "default": 0},
            "end_window": {"type": "integer", "least": 0, "most": MAX_WINDOW, "required": True},
            "text": {"type": "text", "required": True},
        },
    },
    "boxes": {
        "fields": {
            "id": {"type": "text"},
            "desc": {"type": "text", "required": True},
            "bbox": {"type": "numbers", "least": 4, "most": 4},
            "from": {"type": "text"},
            "src_bbox": {"type": "numbers", "least": 4, "most": 4},
            "tgt_bbox": {"type": "numbers", "least": 4, "most": 4},
        },
        "one_of": ["bbox", "tgt_bbox"],
    },
    MESSAGES: {
        "fields": {
            "role": {
                "type": "text",
                "choices": ["system", "user", "assistant"],
                "required": True,
            },
            "content": {"type": "text", "required": True},
        },
        "most": 100,
    },
}
"""Argument with a list of mappings → the keys that its pipeline reads, which no type states."""

OF_TOKENIZER = "it is of the tokenizer, which comes with the weights"

UNGIVEN = {
    "c2w": "it is a pose of the camera for each frame, as an array",
    "dtype": "it is that of the weights",
    "memory_audio_waveforms": "it is a list of audio files, and a field holds one",
    "padding_mask_crop": "it pastes into finished files, and the engine keeps pixels: crop the "
    "image and its mask",
    "prompt_template": "it is a format of Python's, by which a request could take any amount of "
    "memory. Write it in a catalogue file, as `options: {fixed: {prompt_template: {template: …, "
    "crop_start: …}}}`",
    "resized_image": "the pipeline makes it of `image`",
    "thresholds": "its keys are numbers, which objects of JSON do not have",
    "video_tiles": "it saves memory in the last step, by objects that only code makes",
}
"""Argument that no request can give → why."""

TENSOR = "it is a tensor of the model"
"""Why no request can give what only other parts of the model make."""

_IMAGE = re.compile(r"\bImage\b|PipelineImageInput")
_LIST = re.compile(r"(?:List|list)\[(\w+)\]$")
_TUPLE = re.compile(r"(?:Tuple|tuple)\[int(, int)*(, \.\.\.)?\]$")
_TENSORS = re.compile(r"latents?$|_embeds|embeddings|hidden_states|^depth_map$|cu_seqlens$")
_RATE = re.compile(r"\b(\d+) fps\b")
_OF_MODEL = re.compile(r"Tensor\b|None$|ModelOutput$|^tuple$")


@dataclass(frozen=True, slots=True)
class Derived:
    """Inputs of a call, and the arguments that requests cannot give, with the reason."""

    inputs: Mapping[str, Declared]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def notable_omissions(self) -> Mapping[str, str]:
        """Arguments left out that are no tensors of the model, which nobody would look for."""
        return {name: why for name, why in self.left_out.items() if not why.startswith(TENSOR)}


def derive_inputs(
    call: PipelineCall,
    *,
    native: int | None = None,
    frames: int | None = None,
    adapters: int = 0,
    nets: ControlNets | None = None,
) -> Derived:
    """Inputs of the pipeline. ``native``: side in pixels of the images that the model was made
    for. ``frames``: length of the videos that it was made for. ``adapters``: number of
    IP-Adapters that it is loaded with. ``nets``: ControlNets that run together. ``Misconfigured``
    names an argument that the pipeline needs and no request can give."""
    check_adapters(call, adapters)
    if why := UNSERVED.get(call.name):
        raise Misconfigured(
            f"{call.name} cannot be served without code: {why}. Write a family for it: "
            "docs/how-to/write-a-family.md."
        )
    inputs: dict[str, Declared] = {}
    left_out: dict[str, str] = {}
    for argument in call.arguments.values():
        if argument.name in BY_FAMILY | INTERNAL or argument.name.startswith("_"):
            continue
        if argument.name.endswith("kwargs") or "callback" in argument.name:
            continue
        declared = None
        if not (why := _reason(call, argument, adapters)):
            if argument.name in ADAPTER_IMAGES:
                continue
            declared = _for_nets(call, argument, nets)
            why = f"its type is {argument.type or 'not stated'}"
        if declared is not None:
            inputs[_name(call, argument, declared["type"])] = declared
            continue
        left_out[argument.name] = why
        if argument.is_required:
            todo = combined_words(call.name) or (
                "If its value is constant, write it in a catalogue file, as `options: {fixed: "
                f"{{{argument.name}: …}}}}`; otherwise write a family: "
                "docs/how-to/write-a-family.md."
            )
            raise Misconfigured(
                f"{call.name} needs {argument.name}, which no field of a request gives: {why}. "
                f"{todo}"
            )
    if call.default("guidance_scale") is None and "true_cfg_scale" in inputs:
        _name_guidance(inputs)
    inputs |= _of_family(call, inputs, native, frames)
    inputs |= adapter_fields(call, adapters)
    return Derived(order_fields(inputs), left_out)


def _name_guidance(inputs: dict[str, Declared]) -> None:
    """Name the guidance of a distilled model, whose own one is an input of its denoiser, as of
    Qwen-Image."""
    if own := inputs.pop("guidance_scale", None):
        inputs["embedded_guidance_scale"] = own | {"argument": "guidance_scale"}
    inputs["guidance_scale"] = inputs.pop("true_cfg_scale") | {"argument": "true_cfg_scale"}
    inputs["guidance_scale"].pop("about", None)


def _reason(call: PipelineCall, argument: Argument, adapters: int) -> str:
    """Why no request can give an argument; empty if nothing but its type decides."""
    name, type_ = argument.name, argument.type
    if name in UNGIVEN or name.endswith("_token_id"):
        return UNGIVEN.get(name, OF_TOKENIZER)
    if _TENSORS.search(name):
        return f"{TENSOR} ({type_})"
    if name in ADAPTER_IMAGES and (call.is_modular or not adapters):
        return OF_MODULAR if call.is_modular else WITHOUT_ADAPTER
    if _is_audio(call, argument):
        task = "it belongs to the task audio-to-audio (docs/how-to/add-a-model.md)"
        return "" if _redraws(call) else task
    if not _is_file(argument) and type_ and all(map(_OF_MODEL.search, _members(type_))):
        return f"{TENSOR} ({type_})"
    return ""


def _for_nets(call: PipelineCall, argument: Argument, nets: ControlNets | None) -> Declared | None:
    """Declaration of an argument's field, with a value for each of several ControlNets; None: JSON
    has no such type."""
    declared = _field_declaration(call, argument)
    if declared is None or nets is None:
        return declared
    return nets.declaration(
        CONTROL if _is_control(call, argument.name) else argument.name, declared
    )


def _field_declaration(call: PipelineCall, argument: Argument) -> Declared | None:
    """Declaration of an argument's field; None: JSON has no such type."""
    name = argument.name
    if _is_audio(call, argument):
        return {"type": "audio", "argument": name, "required": True}
    if _is_file(argument):
        return _file(call, argument)
    declared = _objects(argument) if _has_objects(argument) else _scalar(argument)
    if declared is None:
        return None
    if name == LAYERS and call.result is not None:
        declared["type"] = LAYERS
    for start, choices in CHOICES.items():
        if call.name.startswith(start) and name in choices:
            declared["choices"] = [*choices[name]]
    declared |= {"required": True} if _is_needed(call, argument) else _default(argument)
    if name == PROMPT and argument.default is None and OTHER_PROMPTS.isdisjoint(call.arguments):
        declared["required"] = True
    if name == MESSAGES:
        replaced = (other for other in (PROMPT, "image") if other in call.arguments)
        declared["instead_of"] = [NAMES.get(other, other) for other in replaced]
    about = re.sub(rf"^{name} \([^)]*\):\s*", "", argument.about)
    if about and (name not in DESCRIBED or call.output == "text"):
        declared["about"] = about
    return declared


def _default(argument: Argument) -> Declared:
    """Key of a declaration that says whether its field may be left out."""
    default = argument.default
    if argument.is_required:
        return {"required": True}
    has_one = default is not None and not isinstance(default, (tuple, dict))
    return {"default": default} if has_one else {}


def _has_objects(argument: Argument) -> bool:
    takes_lists = any(member.startswith("list") for member in _members(argument.type))
    return takes_lists and (bool(argument.item) or argument.name in OBJECTS)


def _objects(argument: Argument) -> Declared | None:
    """Declaration of a list of objects, by the class of its items. None: an object needs what no
    request can give."""
    if not argument.item:
        return {"type": "objects", **OBJECTS[argument.name]}
    fields: dict[str, Declared] = {}
    files: dict[str, Declared] = {}
    for attribute in argument.item:
        if attribute.name in OF_FILE:
            continue
        if file_fields := dict(_files(argument, attribute)):
            files |= file_fields
        elif (scalar := _scalar(attribute)) is not None:
            if attribute.name == "strength":
                scalar["least"] = 0  # nothing is redrawn: it is how much an object counts
            about = {"about": attribute.about} if attribute.about else {}
            fields[attribute.name] = scalar | _default(attribute) | about
        elif attribute.is_required:
            return None
    if len(files) == 1:
        next(iter(files.values()))["required"] = True
    declared: Declared = {"type": "objects", "fields": {**files, **fields}}
    return declared | ({"one_of": [*files]} if len(files) > 1 else {})


def _files(argument: Argument, attribute: Argument) -> Iterator[tuple[str, Declared]]:
    """Fields for the files that an attribute of an object can be made from."""
    types = [member for member in _members(attribute.type) if _IMAGE.search(member)]
    kept = {} if argument.name.endswith(CONDITIONS) else {"as_is": True}
    if any(not member.startswith("list") for member in types):
        yield "image_url", {"type": "image", "argument": attribute.name, **kept}
    if any(member.startswith("list") for member in types):
        yield "video_url", {"type": "video", "argument": attribute.name, **kept}
    if attribute.name == "audio":
        yield "audio_url", {"type": "audio", "argument": attribute.name}


def _is_audio(call: PipelineCall, argument: Argument) -> bool:
    return call.output == "audio" and argument.name in AUDIO


def _is_file(argument: Argument) -> bool:
    name = argument.name
    return name in NAMES or name in (CONTROL, VIDEO) or _IMAGE.search(argument.type) is not None


DESCRIBED = frozenset({PROMPT, "negative_prompt", STEPS, "guidance_scale", "strength"})
"""Fields that the schema itself describes."""


def _scalar(argument: Argument) -> Declared | None:
    """Declaration by the type that JSON has, of those in the annotation."""
    default = argument.default
    types = _members(argument.type) or [type(default).__name__]
    if argument.choices:
        return {"type": "text", "choices": [*argument.choices]}
    if (pair := next((member for member in types if _TUPLE.match(member)), None)) is not None:
        length = pair.count("int")
        return {"type": "integers", **({"least": length, "most": length} if length > 1 else {})}
    if isinstance(default, bool) or "bool" in types:
        return {"type": "boolean"}
    if "str" in types:
        return {"type": "text"}
    return _number(argument.name, types) or _listed(argument, types)


def _number(name: str, types: Sequence[str]) -> Declared | None:
    if "float" in types:
        number: Declared = {"type": "number"}
        if name == "strength":
            number |= {"least": 0.01, "most": 1}
        elif name.endswith(SHARES):
            number |= {"least": 0, "most": 1}
        return number | dict(BOUNDS.get(name, {}))
    return {"type": "integer", **BOUNDS.get(name, {})} if "int" in types else None


def _listed(argument: Argument, types: Sequence[str]) -> Declared | None:
    default = argument.default
    if ROWS in types and argument.name in COLUMNS:
        return {"type": "rows", **COLUMNS[argument.name]}
    lists = {"str": "texts", "int": "integers", "float": "numbers"}
    if "list" in types and isinstance(default, list) and default:
        types = [f"list[{type(default[0]).__name__}]"]
    items = (match[1] for member in types if (match := _LIST.match(member)))
    return next(({"type": lists[item]} for item in items if item in lists), None)


def _members(annotation: str) -> list[str]:
    """Types of a union, as they are written."""

    def members(node: ast.expr) -> Iterator[str]:
        match node:
            case ast.BinOp(left=left, right=right):
                yield from members(left)
                yield from members(right)
            case ast.Subscript(value=ast.Name(id="Union" | "Optional"), slice=inner):
                for element in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                    yield from members(element)
            case _:
                yield ast.unparse(node)

    return [*members(ast.parse(annotation, mode="eval").body)] if annotation else []


def _file(call: PipelineCall, argument: Argument) -> Declared:
    """Declaration of a field with an image, several images, a mask or a video."""
    name, type_ = argument.name, argument.type
    declared: Declared = {"argument": name}
    if "video" in name or name.endswith("_frames") or _is_video_of_masks(call, argument):
        declared["type"] = "video"
    elif "mask" in name:
        declared["type"] = "mask"
    elif name.endswith("images") or _is_list(call, name, type_):
        declared["type"] = "images"
    else:
        declared["type"] = "image"
        if any(part in name for part in KEPT):
            declared["as_is"] = True
    elsewhere = any(attribute.name == name for a in call.arguments.values() for attribute in a.item)
    redraws = _redraws(call) and not elsewhere  # else its objects may have the image
    always = name == "image" and (redraws or _is_control(call, name))
    if _is_needed(call, argument) or (always and not call.is_modular):
        declared["required"] = True
    if argument.about and name not in {*NAMES, CONTROL, VIDEO}:
        declared["about"] = argument.about
    return declared


def _is_needed(call: PipelineCall, argument: Argument) -> bool:
    """True if the pipeline fails without the argument."""
    part = None if call.is_modular else NEEDED.get(argument.name)
    return argument.is_required or (part is not None and part in call.name)


def _is_control(call: PipelineCall, name: str) -> bool:
    """True for the image of a ControlNet that its pipeline calls ``image``, as it has no other."""
    named = any(part in call.name for part in ("ControlNet", "Adapter"))
    return name == "image" and named and not call.is_modular and CONTROL not in call.arguments


def _is_video_of_masks(call: PipelineCall, argument: Argument) -> bool:
    members = _members(argument.type) or [""]
    return call.output == "video" and argument.name == "mask" and members[0].startswith("list[")


def _is_list(call: PipelineCall, name: str, type_: str) -> bool:
    """True for the images of a model that is given several at once. Of ``image``, most annotations
    name a list too, for as many results: there, nothing but images and lists of them must be named.
    """
    if name != "image":
        return _members(type_)[0].lower().startswith("list[")
    if call.is_modular:  # all say that they take a list
        return any(part in call.name for part in EDITORS)
    is_single, several = (
        any(member.endswith(end) for member in _members(type_)) for end in ("Image", "Image]")
    )
    wide = any("Tensor" in member for member in _members(type_))
    return "EditPlus" in call.name or (is_single and several and not wide)


def _redraws(call: PipelineCall) -> bool:
    """True if the pipeline changes an image, although its argument has a default."""
    parts = (
        *("Img2Img", "Kontext", "Edit", "InstructPix2Pix", "Inpaint", "ImageTo", "AudioToAudio"),
        "Layered",
    )
    return "strength" in call.arguments or any(part in call.name for part in parts)


def _name(call: PipelineCall, argument: Argument, type_: str) -> str:
    name = argument.name
    if type_ not in FILES:
        return name
    if _is_control(call, name):
        name = CONTROL
    if type_ == "audio":
        return "audio_url"
    if type_ == "video" and "video" not in name:
        return f"{name}_video_url"
    if name in NAMES:
        return "image_urls" if type_ == "images" and name == "image" else NAMES[name]
    return f"{name.removesuffix('s')}_urls" if type_ == "images" else f"{name}_url"


def _of_family(
    call: PipelineCall, inputs: Mapping[str, Declared], native: int | None, frames: int | None
) -> Iterator[tuple[str, Declared]]:
    """Fields that the family translates into arguments, or into settings of components."""
    for setting in call.settings:
        if setting.field not in inputs:
            scale: Declared = {"type": "number", "argument": setting.place}
            yield (
                setting.field,
                scale | ({} if setting.default is None else {"default": setting.default}),
            )
    if call.arguments.keys() >= SIDES:
        shown = any(spec["type"] in ("image", "images", "video") for spec in inputs.values())
        # With an image, the size is its own; else that of the pipeline, or of `video_format`.
        size: Declared = {"type": "size"}
        if not shown and call.output != "video":
            least = None if native is None else max(native, MIN_SIDE)
            size["default"] = stated_size(call, least) or "landscape_4_3"
        yield "image_size", size
    if call.takes_loras and call.output != "audio":
        yield "loras", {"type": "loras"}
    yield from _of_output(call, inputs, frames)


def _of_output(
    call: PipelineCall, inputs: Mapping[str, Declared], frames: int | None
) -> Iterator[tuple[str, Declared]]:
    """Fields with the number or the length of what is made."""
    if call.output == "image":
        if COUNT in call.arguments and call.result is None:
            yield "num_images", {"type": "count", "argument": COUNT, "default": 1}
    elif call.output == "video":
        if any(spec["type"] == "video" and spec.get("required") for spec in inputs.values()):
            yield "num_frames", {"type": "frames"}
            yield "frames_per_second", {"type": "rate"}
        else:
            yield from _moving(call, frames)
    elif call.output == "audio":
        yield from _lasting(call)


USUAL_SECONDS = 10.0
USUAL_FRAMES, USUAL_RATE = 49, 16


def _lasting(call: PipelineCall) -> Iterator[tuple[str, Declared]]:
    default = call.default(next((name for name in LENGTHS if name in call.arguments), ""))
    seconds = float(default) if isinstance(default, int | float) else USUAL_SECONDS
    yield "seconds_total", {"type": "seconds", "default": seconds}


def _moving(call: PipelineCall, frames: int | None) -> Iterator[tuple[str, Declared]]:
    counts = (call.default(name) for name in NUMBERS_OF_FRAMES)
    count = next((number for number in counts if isinstance(number, int)), frames or USUAL_FRAMES)
    rate = call.default("frame_rate") or call.default("fps") or _described_rate(call)
    yield "num_frames", {"type": "frames", "default": count}
    stated = rate if isinstance(rate, int | float) else USUAL_RATE
    yield "frames_per_second", {"type": "rate", "default": stated}


def _described_rate(call: PipelineCall) -> float | None:
    """Frame rate of a modular pipeline, as its frames are described."""
    if not call.is_modular:
        return None
    described = (call.arguments[n].about for n in NUMBERS_OF_FRAMES if n in call.arguments)
    match = next((rate for line in described if (rate := _RATE.search(line))), None)
    return float(match[1]) if match else None


def stated_size(call: PipelineCall, native: int | None) -> dict[str, int] | None:
    """Size of the call's own defaults, or else the ``native`` one."""
    sides = {side: call.default(side) for side in ("width", "height")}
    if all(isinstance(size, int) for size in sides.values()):
        return sides
    return None if native is None else dict.fromkeys(sides, native)


def order_fields(inputs: Mapping[str, Declared]) -> Mapping[str, Declared]:
    """Fields in the order of a form: what a request is about, then what is usually changed."""
    return dict(sorted(inputs.items(), key=_order))


def _order(item: tuple[str, Declared]) -> int:
    name, declared = item
    first = (
        *(PROMPT, "image_url", "image_urls", "start_image_url", "first_frame_url"),
        *("mask_url", "video_url", "audio_url", "control_image_url", "control_image_urls"),
    )
    usual = (
        *("negative_prompt", "image_size", "num_frames", "frames_per_second", "seconds_total"),
        *(STEPS, "guidance_scale", "strength", f"{IP_ADAPTER}_scale"),
        *("num_images", "layers", "num_layers", "loras"),
    )
    if name in first:
        return first.index(name)
    has_files = declared["type"] in FILES or declared.get("one_of")
    if has_files or declared.get("instead_of") or declared.get("required"):
        return len(first)
    if name in usual:
        return len(first) + 1 + usual.index(name)
    return len(first) + len(usual) + 1 + ("unused" in declared or "refused" in declared)
