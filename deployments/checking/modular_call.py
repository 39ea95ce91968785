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
    nested,
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
        "takes_loras": any("LoraLoader" in each.__name__ for each in kind.__mro__),
    }


def _arguments(called: type, blocks: Any, ways: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    made = {each.name for block in nested(blocks) for each in block.intermediate_outputs}
    of_ways = [{each.name: each for each in way.inputs} for way in ways]
    for each in blocks.inputs:
        found = [way[each.name] for way in of_ways if each.name in way]
        if each.name is None or not found:
            continue
        kind = next((one.type_hint for one in found if one.type_hint is not None), None)
        standard: Mapping[str, Any] = INPUT_PARAM_TEMPLATES.get(each.name, {})
        if each.name in made and not standard and kind not in PLAIN:
            continue  # a state between two blocks
        defaults = [one.default for one in found]
        default = defaults[0] if all(one == defaults[0] for one in defaults) else None
        yield {
            "name": each.name,
            "default": default if _is_json(default) else None,
            "is_required": default is None
            and len(found) == len(ways)
            and all(one.required for one in found),
            "type": _type(each.name, kind or standard.get("type_hint"), default),
            "about": next((one.description for one in found if one.description), ""),
            **_items(item_classes(called, each.name)),
        }


def _items(kinds: Sequence[Any]) -> Mapping[str, Any]:
    """What is known of the objects in a list of these classes."""
    described = "\n".join(kind.__doc__ or "" for kind in kinds)
    return {"item": [*_item(kinds)], "docstring": described} if kinds else {}


def _item(kinds: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Arguments of the constructors. Those that not all the classes need may be left out."""
    known: dict[str, list[Field[Any]]] = {}
    for kind in kinds:
        for each in fields(kind):
            known.setdefault(each.name, []).append(each)
    hints = {name: hint for kind in kinds for name, hint in get_type_hints(kind).items()}
    for name, found in known.items():
        default = found[0].default
        needed = all(e.default is MISSING and e.default_factory is MISSING for e in found)
        yield {
            "name": name,
            "default": default if _is_json(default) else None,
            "is_required": needed and len(found) == len(kinds),
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
