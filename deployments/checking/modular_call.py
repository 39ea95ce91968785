"""Call of a modular pipeline, as JSON: what its blocks take, make, and can be set to.

    python -m deployments.checking.modular_call Flux3ModularPipeline transformer,vae,…

The command line runs it in a process of its own: blocks compute their inputs, so diffusers has to
be imported, which takes seconds, and torch, which the control plane does without.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_type_hints

import diffusers
from diffusers.guiders.guider_utils import BaseGuidance
from diffusers.modular_pipelines.modular_pipeline_utils import INPUT_PARAM_TEMPLATES

from deployments.engine.interception.item_classes import item_classes
from deployments.engine.interception.modular import (
    block_results,
    blocks_of,
    is_pipeline,
    nested_blocks,
    workflows,
)

GUIDANCE = "guidance_scale"
PLAIN = (str, int, float, bool)


def modular_call(name: str, available: Collection[str] | None = None) -> Mapping[str, Any]:
    """Arguments, results and settings of the class ``name`` with the components ``available``; with
    all of them if None. ``ValueError`` says why it cannot be called."""
    kind: Any = getattr(diffusers, name, None)
    if kind is None:
        raise ValueError("the diffusers on this machine does not have it")
    if not is_pipeline(kind):
        raise ValueError("its blocks are of its repository, which is code. That is not run")
    blocks = blocks_of(kind, available)
    ways = workflows(blocks, available)
    return {
        "arguments": [*_arguments(kind, blocks, ways)],
        "makes": block_results(kind),
        "settings": [*_settings(kind(blocks=blocks))],
        "takes_loras": any("LoraLoader" in base.__name__ for base in kind.__mro__),
    }


def _arguments(called: type, blocks: Any, ways: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    intermediates = {
        output.name for block in nested_blocks(blocks) for output in block.intermediate_outputs
    }
    of_ways = [{param.name: param for param in way.inputs} for way in ways]
    for block_input in blocks.inputs:
        params = [way[block_input.name] for way in of_ways if block_input.name in way]
        if block_input.name is None or not params:
            continue
        kind = next((param.type_hint for param in params if param.type_hint is not None), None)
        standard: Mapping[str, Any] = INPUT_PARAM_TEMPLATES.get(block_input.name, {})
        if block_input.name in intermediates and not standard and kind not in PLAIN:
            continue  # a state between two blocks
        defaults = [param.default for param in params]
        default = defaults[0] if all(value == defaults[0] for value in defaults) else None
        yield {
            "name": block_input.name,
            "default": default if _is_json(default) else None,
            "is_required": default is None
            and len(params) == len(ways)
            and all(param.required for param in params),
            "type": _type(block_input.name, kind or standard.get("type_hint"), default),
            "about": next((param.description for param in params if param.description), ""),
            **_items(item_classes(called, block_input.name)),
        }


def _items(kinds: Sequence[Any]) -> Mapping[str, Any]:
    """What is known of the objects in a list of these classes."""
    described = "\n".join(kind.__doc__ or "" for kind in kinds)
    return {"item": [*_item(kinds)], "docstring": described} if kinds else {}


def _item(kinds: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Arguments of the constructors. Those that not all the classes need may be left out."""
    known: dict[str, list[Field[Any]]] = {}
    for kind in kinds:
        for field in fields(kind):
            known.setdefault(field.name, []).append(field)
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    for name, variants in known.items():
        default = variants[0].default
        needed = all(e.default is MISSING and e.default_factory is MISSING for e in variants)
        yield {
            "name": name,
            "default": default if _is_json(default) else None,
            "is_required": needed and len(variants) == len(kinds),
            "type": str(hints[name]) if get_args(hints[name]) else _type(name, hints[name], None),
            "about": "",
        }


def _settings(pipeline: Any) -> Iterator[Mapping[str, Any]]:
    """Guidance scales of guiders: ``guider_2`` has ``guidance_scale_2``."""
    for name, component in pipeline.components.items():
        scale = getattr(component, GUIDANCE, None)
        if isinstance(component, BaseGuidance) and isinstance(scale, int | float):
            field = name.replace("guider", GUIDANCE)
            default = float(scale) if component.config.get("enabled", True) else None
            yield {"field": field, "place": f"{name}.{GUIDANCE}", "default": default}


IMAGES = "list[PIL.Image.Image]"
UNSTATED = {
    "video": IMAGES,
    "clip_skip": "int",
    "control_mode": "int",
    "decode_noise_scale": "float",
    "denoising_start": "float",
    "denoising_end": "float",
    "original_size": "tuple[int, int]",
    "target_size": "tuple[int, int]",
    "crops_coords_top_left": "tuple[int, int]",
    "sigmas": "list[float]",
}
"""Types that blocks do not state, or not wholly, by the name of the input."""


def _type(name: str, kind: Any, default: Any) -> str:
    """The type as an annotation writes it; empty if it is not known."""
    if kind is None or kind in (list, tuple, list | tuple):
        if name.endswith("images"):
            return IMAGES
        if isinstance(default, list | tuple) and default:
            return f"list[{type(default[0]).__name__}]"
        if kind is None and "prompt" in name:
            return "str"
        if (known := UNSTATED.get(name.removeprefix("negative_"))) is not None or kind is None:
            return known or ""
    if not isinstance(kind, type) or hasattr(kind, "__args__"):
        return str(kind)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    _, _name, *_rest = sys.argv
    try:
        _found = modular_call(_name, _rest[0].split(",") if _rest else None)
    except ValueError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(_found))
