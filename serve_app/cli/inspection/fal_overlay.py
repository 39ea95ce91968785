"""Inputs of an endpoint of fal's, laid over those that a pipeline's call derives.

The fields are fal's: their names, types and defaults. Each is mapped to what the pipeline has for
it. Values that it has no place for are refused, unless they are the default; a few that do not
change the result have no effect, and the request's log says so. What the pipeline takes beyond
fal's fields stays reachable under its own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.catalog.fal_types import (
    Choice,
    FalField,
    FalFields,
    FalType,
    ListOf,
    ObjectOf,
    Plain,
    fal_input,
    fal_object,
)
from serve_app.catalog.schema.declared import KINDS
from serve_app.cli.inspection.derivation import PROMPT, Declared, Derived, order_fields
from serve_app.cli.inspection.fal_parts import Parts, PartsChosen, parts_chosen
from serve_app.cli.inspection.pipeline_call import FAMILY_OF_OUTPUT, Output
from serve_app.domain.errors import Misconfigured
from serve_app.domain.media.image_size import AUTO
from serve_app.domain.media.video_size import VIDEO_SIZES
from serve_app.options.inputs import STEPS, TRANSLATED, InputType

REFUSED = "refused"
PRESET = "landscape_4_3"
"""Size where a request names none and has no image."""

RENAMED: Mapping[str, tuple[str, ...]] = {
    "image_url": ("image", "images", "input_images", "control_image"),
    "image_urls": ("image", "images", "input_images"),
    "first_frame_url": ("image",),
    "start_image_url": ("image",),
    "control_image_url": ("control_image", "image"),
    "input_image_urls": ("input_images", "image"),
    "mask_url": ("mask_image", "mask"),
    "last_frame_url": ("last_image",),
    "reference_image_url": ("image_reference", "reference_image", "image"),
    "ref_image_urls": ("reference_images",),
    "mask_image_url": ("mask_image", "mask"),
    "control_lora_image_url": ("control_image",),
    "audio_url": ("audio", "initial_audio_waveforms"),
    "video_url": ("video", "driving_video"),
    "steps": (STEPS,),
    "number_of_steps": (STEPS,),
    "cfg_scale": ("true_cfg_scale", "guidance_scale"),
    "guidance_scale": (
        *("guidance_scale", "true_cfg_scale", "distilled_guidance_scale", "prior_guidance_scale"),
    ),
    "first_stage_steps": ("prior_num_inference_steps",),
    "second_stage_steps": (STEPS,),
    "second_stage_guidance_scale": ("decoder_guidance_scale",),
    "control_scale": ("controlnet_conditioning_scale",),
    "control_start": ("control_guidance_start",),
    "control_end": ("control_guidance_end",),
    "cond_aug": ("noise_aug_strength",),
    "num_layers": ("layers",),
    "processing_res": ("processing_resolution",),
    "strength": ("strength", "init_noise_level"),
    "start_frame_num": ("frame_index",),
    "start_frame_number": ("frame_index",),
}
"""fal's field → arguments that take what it holds, the first that the pipeline has."""

SIZES, RATES = (
    ("image_size", "video_size"),
    ("frames_per_second", "fps", "export_fps", "frame_rate"),
)
TYPES: Mapping[str, InputType] = {
    **dict.fromkeys(SIZES, InputType.SIZE),
    **dict.fromkeys(RATES, InputType.RATE),
    **dict.fromkeys(("format", "image_format"), InputType.FORMAT),
    **dict.fromkeys(("num_frames", "number_of_frames"), InputType.FRAMES),
    "num_images": InputType.COUNT,
    **dict.fromkeys(("seconds_total", "total_seconds"), InputType.SECONDS),
    "loras": InputType.LORAS,
}
"""fal's field → what the family translates."""

READ: Mapping[Output, tuple[str, ...]] = {
    "image": (),
    "video": ("resolution", "aspect_ratio", "duration", "shift", "generate_audio"),
    "audio": ("seconds_start",),
    "text": (),
}
"""Fields that the family reads by their names."""

POSSIBLE = {
    "resolution": (*VIDEO_SIZES, AUTO),
    "aspect_ratio": (*next(iter(VIDEO_SIZES.values())), AUTO),
}

UNUSED: Mapping[str, str] = {
    "image_encoder_weight_name": "the safetensors of the image encoder are loaded",
    "acceleration": "this endpoint has no step cache",
    **dict.fromkeys(
        ("enable_prompt_expansion", "expand_prompt", "enhance_prompt", "prompt_expansion"),
        "prompts are used as they are sent",
    ),
    **dict.fromkeys(
        (
            *("enable_safety_checker", "enable_output_safety_checker", "enable_safety_checks"),
            *("safety_checker_version", "safety_tolerance"),
        ),
        "the operator decides what is checked",
    ),
    **dict.fromkeys(
        ("interpolator_model", "num_interpolated_frames", "adjust_fps_for_interpolation"),
        "frames are not interpolated here",
    ),
    "request_id": "Darkroom generates the id of each request",
    "use_rife": "frames are not interpolated here",
}
"""Fields that change no result, with the reason why they have no effect."""


@dataclass(frozen=True, slots=True)
class Overlaid:
    inputs: Mapping[str, Declared]
    defaults: Mapping[str, Any]  # of fields that every input has


def overlaid(
    derived: Derived, endpoint_id: str, output: Output, name: str, parts: Parts
) -> Overlaid:
    """Fields of fal's endpoint over what was ``derived`` of the class ``name``, which is loaded
    with these ``parts``. ``Misconfigured``: its clients do not send what the pipeline needs, or
    send what it cannot take."""
    fields = fal_input(endpoint_id) or {}
    inputs: dict[str, Declared] = {}
    taken: set[str] = set()
    standard = KINDS[FAMILY_OF_OUTPUT[output]].fields.keys()
    own = {field: fals for field, fals in fields.items() if field not in standard}
    lists = {field: items for field, fals in own.items() if (items := _item_fields(fals))}
    chosen = {field: those for field in lists if (those := parts_chosen(field, parts))}
    of_parts = {target for those in chosen.values() for target in those.values.values()}
    for field, fals in own.items():
        if field in chosen:
            inputs[field] = _of_parts(lists[field], chosen[field], derived, output, name)
            continue
        candidates = (n for n in _sources(field, derived) if n not in taken | of_parts)
        source = next(candidates, None)
        objects = None if source else _source_of_objects(fals, derived)
        if objects is not None:
            source, items = objects
            taken.add(source)
            inputs[field] = _objects(items, source, derived.inputs[source], output, name)
        elif source is None:
            inputs[field] = _without_argument(field, fals, output, name)
        else:
            taken.add(source)
            inputs[field] = _with_argument(fals, source, derived.inputs[source])
    rest = {n: spec for n, spec in derived.inputs.items() if n not in taken and n not in inputs}
    for field in of_parts & rest.keys():
        rest[field] = {key: value for key, value in rest[field].items() if key != "required"}
    if of_parts and not any(_is_shown(spec) for spec in inputs.values()):
        inputs.get("image_size", {}).setdefault("default", PRESET)
    if output == "video" and "duration" in inputs:
        rest.pop("num_frames", None)  # its default would be another length
    if rest.get(PROMPT, {}).get("required"):
        rest[PROMPT] = {"type": "text", "default": ""}
    _check(endpoint_id, name, inputs, rest)
    stated = {n: fals.default for n, fals in fields.items() if n not in own}
    defaults = {n: default for n, default in stated.items() if default is not None}
    return Overlaid(order_fields({**inputs, **rest}), defaults)


def _check(
    endpoint_id: str, name: str, inputs: Mapping[str, Declared], rest: Mapping[str, Declared]
) -> None:
    needed = [field for field, spec in rest.items() if spec.get("required")]
    missing = [field for field, spec in inputs.items() if spec.get("required") and REFUSED in spec]
    if not needed and not missing:
        return
    whys = (
        [f"{name} needs {', '.join(needed)}, which {endpoint_id} does not have"] if needed else []
    )
    whys += [f"{name} has no place for its {', '.join(missing)}"] if missing else []
    raise Misconfigured(
        f"{' and '.join(whys)}, so fal's clients could not use it. Serve it under an id of your "
        "own, such as house/x: its fields are then those of the pipeline."
    )


def _sources(field: str, derived: Derived) -> Iterator[str]:
    """Derived fields that hold what a field of fal's does, the best first."""
    if field in TYPES:
        yield from (n for n, spec in derived.inputs.items() if spec["type"] == TYPES[field])
        return
    of_argument = {spec.get("argument", n): n for n, spec in derived.inputs.items()}
    if field in derived.inputs and field not in RENAMED:
        yield field
    yield from (
        of_argument[argument] for argument in RENAMED.get(field, ()) if argument in of_argument
    )


def _source_of_objects(fals: FalField, derived: Derived) -> tuple[str, FalFields] | None:
    """Derived list of objects with a file that those of fal's have too, and fal's fields of each.
    Several fields of fal's may share the list, such as one of images and one of videos."""
    if (items := _item_fields(fals)) is None:
        return None
    files = {name for name in items if name.endswith("_url")}
    listed = ((n, spec["fields"].keys()) for n, spec in derived.inputs.items() if "fields" in spec)
    return next(((name, items) for name, fields in listed if files & fields), None)


def _item_fields(fals: FalField) -> FalFields | None:
    """Fields of the objects of a list; None: it is no list of objects."""
    if not isinstance(fals.type, ListOf) or not isinstance(fals.type.item, ObjectOf):
        return None
    return fal_object(fals.type.item.name)


def _of_parts(
    items: FalFields, chosen: PartsChosen, derived: Derived, output: Output, name: str
) -> Declared:
    """Declaration of a list of fal's objects that choose parts."""
    fields: dict[str, Declared] = {}
    for field, fals in items.items():
        target = chosen.values.get(field, "")
        declared: Declared = {"required": True} if fals.required else {}
        if field in chosen.names[0]:
            fields[field] = {**declared, "type": "text"}
        elif target not in derived.inputs:
            fields[field] = _without_argument(field, fals, output, name)
        elif fals.type is Plain.FILE:
            fields[field] = {**declared, "type": "image", "argument": target}
        else:
            own = derived.inputs[target]
            prefix = "item_" if own["type"] == "numbers" else ""
            bounds = {b: own[prefix + b] for b in ("least", "most") if prefix + b in own}
            declared |= {} if fals.default is None else {"default": fals.default}
            fields[field] = {**declared, "type": "number", "argument": target, **bounds}
    parts = [{field: [*texts] for field, texts in names.items()} for names in chosen.names]
    return {"type": "objects", "most": len(parts), "fields": fields, "parts": parts}


def _is_shown(declared: Declared) -> bool:
    """True for an image that every input has, whose size the output has."""
    return declared["type"] in ("image", "images") and "required" in declared


def _objects(
    items: FalFields, source: str, derived: Declared, output: Output, name: str
) -> Declared:
    """Declaration of a list of fal's objects, whose files are those of the derived list."""
    own = Derived(derived["fields"])
    fields: dict[str, Declared] = {}
    for field, fals in items.items():
        origin = next(_sources(field, own), None)
        if origin is None:
            fields[field] = _without_argument(field, fals, output, name)
        else:
            fields[field] = _with_argument(fals, origin, own.inputs[origin])
    declared: Declared = {"type": "objects", "argument": derived.get("argument", source)}
    choice = [n for n in derived.get("one_of", ()) if n in fields and "required" not in fields[n]]
    return {**declared, "fields": fields, **({"one_of": choice} if choice else {})}


def _with_argument(fals: FalField, source: str, derived: Declared) -> Declared:
    """Declaration of a field that the pipeline has an argument for."""
    declared = {key: value for key, value in derived.items() if key not in ("required", "default")}
    if derived["type"] not in TRANSLATED:
        declared["argument"] = derived.get("argument", source)
    if derived["type"] == "images" and fals.type is Plain.FILE:
        declared["type"] = "image"
    elif derived["type"] == "image" and isinstance(fals.type, ListOf):
        declared |= {"type": "images", "most": 1}
    if derived["type"] == "text" and isinstance(fals.type, Choice):
        declared["choices"] = [*fals.type.values]
    if fals.required:
        return declared | {"required": True}
    default = derived.get("default") if fals.default is None else fals.default
    if default is None or (derived["type"] == "size" and default == AUTO):
        return declared
    return declared | {"default": default}


def _without_argument(field: str, fals: FalField, output: Output, name: str) -> Declared:
    """Declaration of a field that the family reads, or that has no effect, or is refused."""
    default = {} if fals.default is None else {"default": fals.default}
    kind = _plain(fals.type)
    off = False if fals.type is Plain.BOOLEAN else None  # asks for nothing
    granted = off if fals.default is None else fals.default
    granted = {} if granted is None else {"granted": [granted]}
    if TYPES.get(field) is InputType.FORMAT:
        return {**kind, "type": "format", **default}
    if field in READ[output]:
        possible = POSSIBLE.get(field)
        if possible is None:
            return {**kind, **default, "by_family": True}
        others = [choice for choice in kind.get("choices", ()) if choice not in possible]
        if default and fals.default not in possible:
            return {**kind, **default, REFUSED: f"{name} has a size of its own", **granted}
        limited = {REFUSED: "videos are not made in this shape", "granted": [*possible]}
        return {**kind, **default, "by_family": True, **(limited if others else {})}
    if (why := UNUSED.get(field)) is not None:
        return {**kind, **default, "unused": why, **granted}
    required = {"required": True} if fals.required else {}
    return {**kind, **default, **required, REFUSED: f"{name} has no argument for it", **granted}


def _plain(type_: FalType) -> Declared:
    """Type of a value that is not passed on."""
    match type_:
        case Choice(values):
            return {"type": "text", "choices": [*values]}
        case Plain.TEXT:
            return {"type": "text"}
        case Plain.NUMBER:
            return {"type": "number"}
        case Plain.BOOLEAN:
            return {"type": "boolean"}
        case _:
            return {"type": "any"}
