"""LoRA files, read as changes of layers and checked against the model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import (
    DIFFUSERS_OLD_TO_PEFT,
    DIFFUSERS_TO_PEFT,
    convert_state_dict,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from deployments.engine.interception.components import DENOISERS, is_of_transformers
from deployments.engine.lora.changes import Change, LoraPair
from deployments.engine.lora.lycoris import (
    Probes,
    change_of,
    find_targets,
    is_probe,
    rank_of,
    separate,
)
from serve_app.domain.errors import Misconfigured, WeightsUnavailable


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that a generation uses."""

    file: Path  # *.safetensors, in any layout that diffusers reads for the pipeline
    scale: float = 1.0
    # denoiser that it changes, for files that name another one (transformer_2 of Wan 2.2 A14B)
    denoiser: str = ""
    # part of an endpoint: in use, it does not count against the limit for LoRAs of requests
    is_own: bool = False


def read_lora(pipeline: Any, file: Path, denoiser: str = "") -> dict[str, Change]:
    """Read the adapter in ``file`` as changes by ``component.layer`` of ``pipeline``, on the CPU.

    ``denoiser``: the one that the file changes, whichever it names; empty: the named one.
    It may be a LoRA, LoKr, LoHa or DoRA. Raises ``Misconfigured`` when it was made for another
    model or is of another kind, and ``WeightsUnavailable`` when the file cannot be read.
    """
    if not hasattr(pipeline, "lora_state_dict"):
        raise Misconfigured(f"{type(pipeline).__name__} does not support LoRAs ({file}).")
    given, settings = _read(file)
    try:
        return _changes(pipeline, given, settings, file, denoiser)
    except _UNEXPECTED as error:
        raise Misconfigured(f"The LoRA {file} has an unknown layout: {error!r}") from error


_UNEXPECTED = (
    *(ValueError, TypeError, LookupError, AttributeError, RuntimeError),
    *(ArithmeticError, AssertionError),
)
"""What diffusers, torch and our own code raise for tensors of shapes and names that no adapter
has."""


def _changes(
    pipeline: Any,
    given: dict[str, Tensor],
    settings: Mapping[str, Any],
    file: Path,
    denoiser: str,
) -> dict[str, Change]:
    plain, adapters = separate(given, file)
    targets, others = find_targets(pipeline, adapters)
    probes = Probes(others, file)
    changes: dict[str, Change] = {}
    if plain or probes.state or not adapters:
        renamed = _renamed(pipeline, {**plain, **probes.state})
        for name, pair in _pairs(renamed, settings, file).items():
            if is_probe(pair.up):
                targets.append(probes.target(name, pair.down, pair.up))
            else:
                changes[name] = pair
    for target in targets:
        kernel = tuple(layer_of(pipeline, target.layer, file).weight.shape[2:])
        rank = rank_of(target.adapter) or 1
        factor = _factor(target.layer, rank, settings)
        changes[target.layer] = change_of(target, kernel, factor, file)
    if denoiser:
        changes = {_moved(name, denoiser): change for name, change in changes.items()}
    for name, change in changes.items():
        _check(name, change, layer_of(pipeline, name, file).weight, file)
    return changes


def _moved(name: str, denoiser: str) -> str:
    component, _, path = name.partition(".")
    return f"{denoiser}.{path}" if component in DENOISERS else name


def layer_of(pipeline: Any, name: str, file: Path) -> Any:
    """Return the layer ``component.layer`` without the LoRA layers that may wrap it."""
    component, _, path = name.partition(".")
    try:
        layer = getattr(pipeline, component).get_submodule(path)
    except AttributeError as error:
        raise Misconfigured(
            f"The LoRA {file} was made for another model: "
            f"this {type(pipeline).__name__} has no {name}."
        ) from error
    layer = getattr(layer, "base_layer", layer)
    if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
        raise Misconfigured(
            f"The LoRA {file} changes {name}, a {type(layer).__name__}. "
            "Only linear and 2D convolution layers are supported."
        )
    return layer


def _check(name: str, change: Change, weight: Tensor, file: Path) -> None:
    if not change.fits(weight):
        raise Misconfigured(
            f"The LoRA {file} was made for a model of another size: "
            f"{' and '.join(map(str, change.sizes()))} do not make {tuple(weight.shape)} "
            f"of {name}."
        )


def _read(file: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read the tensors of a file, and the settings that were saved with it (empty if none)."""
    try:
        given = load_file(file)
        with safe_open(file, framework="pt") as opened:
            settings = json.loads((opened.metadata() or {}).get(_SETTINGS, "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise WeightsUnavailable(f"The LoRA {file} cannot be read: {error}") from error
    _check_settings(settings, file)
    _check_alphas(given, file)
    # 64 bits mark probes.
    halves = {k: v.float() if v.dtype is torch.float64 else v for k, v in given.items()}
    return halves, settings


def _check_settings(settings: Any, file: Path) -> None:
    """Raise ``Misconfigured`` for settings that ``_factor`` cannot apply.

    peft takes the names in a pattern for regular expressions. The file is a stranger's, and its
    expression could take years, in which no other thread of the process runs.
    """
    if not isinstance(settings, Mapping):
        raise Misconfigured(f"The settings in the header of the LoRA {file} are no JSON object.")
    for name, value in settings.items():
        if not name.endswith((".alpha_pattern", ".lora_alpha")):
            continue
        alphas = (value or {}) if name.endswith(".alpha_pattern") else {"": value}
        if not isinstance(alphas, Mapping) or not all(map(_is_number, alphas.values())):
            raise Misconfigured(f"The settings of the LoRA {file} have a {name} without numbers.")
        if odd := [each for each in alphas if not _LAYER_NAME.fullmatch(each)]:
            raise Misconfigured(
                f"The settings of the LoRA {file} name layers by a regular expression ({odd[0]}), "
                "which is not evaluated. Save them with the names of the layers."
            )


def _check_alphas(given: Mapping[str, Tensor], file: Path) -> None:
    """Raise ``Misconfigured`` for alphas with which diffusers fails, or never ends if negative."""
    for name, alpha in given.items():
        if name.endswith(".alpha") and not (alpha.numel() == 1 and 0 <= float(alpha) < math.inf):
            raise Misconfigured(f"The LoRA {file} has an alpha that is no positive number: {name}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _renamed(pipeline: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename plain LoRAs to diffusers' own names.

    They are ``component.layer.lora_A.weight``, with ``….alpha`` next to them.
    """
    unet = getattr(pipeline, "unet", None)
    found = pipeline.lora_state_dict(
        given, unet_config=unet.config if unet is not None else None, return_alphas=True
    )
    state, alphas = found if isinstance(found, tuple) else (found, None)
    named: dict[str, Any] = {**state, **(alphas or {})}
    of_encoders = {
        name: each
        for name, each in named.items()
        if is_of_transformers(getattr(pipeline, name.partition(".")[0], None))
    }
    others = {name: each for name, each in named.items() if name not in of_encoders}
    others = convert_unet_state_dict_to_peft(others)
    return {**others, **_of_encoders(pipeline, of_encoders)}


def _of_encoders(pipeline: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the tensors to the names of the text encoders in this version of transformers.

    Other trainers name the layers differently, and transformers before 5 had all of a CLIP text
    encoder below one more module.
    """
    renamed: dict[str, Any] = convert_state_dict(state, _ENCODERS_TO_PEFT)
    return {_as_here(pipeline, name): each for name, each in renamed.items()}


def _as_here(pipeline: Any, name: str) -> str:
    has_it = hasattr(getattr(pipeline, name.partition(".")[0]), "text_model")
    return name if has_it else name.replace(".text_model.", ".", 1)


_ENCODERS_TO_PEFT = {**DIFFUSERS_OLD_TO_PEFT, **DIFFUSERS_TO_PEFT}


def _pairs(
    state: Mapping[str, Any], settings: Mapping[str, Any], file: Path
) -> dict[str, LoraPair]:
    alphas = {
        name.removesuffix(".alpha").partition(".lora_A")[0]: float(value)
        for name, value in state.items()
        if name.endswith(".alpha")
    }
    names = {name.removesuffix(_DOWN) for name in state if name.endswith(_DOWN)}
    expected = {f"{name}{end}" for name in names for end in (_DOWN, _UP)}
    odd = {name for name in state if not name.endswith(".alpha")} ^ expected
    if odd or not names:
        raise Misconfigured(f"The LoRA {file} is not a plain LoRA: {', '.join(sorted(odd)[:3])}.")
    pairs: dict[str, LoraPair] = {}
    for name in names:
        down, up = state[f"{name}{_DOWN}"], state[f"{name}{_UP}"]
        if not (rank := len(down)):
            raise Misconfigured(f"The LoRA {file} has a rank of 0 in {name}.")
        factor = alphas[name] / rank if name in alphas else _factor(name, rank, settings)
        pairs[name] = LoraPair(down, up, factor)
    return pairs


def _factor(name: str, rank: int, settings: Mapping[str, Any]) -> float:
    """Compute a layer's factor from the settings that diffusers saves with the weights.

    Each setting's name is prefixed with the component's name. The factor is 1 without settings.
    """
    component, _, path = name.partition(".")
    patterns: Mapping[str, float] = settings.get(f"{component}.alpha_pattern") or {}
    usual: float = settings.get(f"{component}.lora_alpha", rank)
    alpha = next((value for each, value in patterns.items() if _is_for(each, path)), usual)
    return alpha / (math.sqrt(rank) if settings.get(f"{component}.use_rslora") else rank)


def _is_for(layer_name: str, path: str) -> bool:
    """Return whether a name in a pattern is a layer's path or, without ``^``, the end of it."""
    name = layer_name.replace("\\.", ".").removesuffix("$")
    return path == name[1:] if name.startswith("^") else f".{path}".endswith(f".{name}")


_LAYER_NAME = re.compile(r"\^?(\w|\\?\.|-)*\$?")
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_SETTINGS = "lora_adapter_metadata"  # diffusers' name for the settings in the file's header


# Adapters that are part of an endpoint, merged into the weights once when the model is loaded. A
# generation costs the same as without them, and nothing is switched between generations.


def merge_lora(pipeline: Any, file: Path, scale: float = 1.0) -> None:
    """Merge the adapter in ``file`` into the weights of ``pipeline``.

    The file may have any layout that ``read_lora`` reads. Raises ``Misconfigured`` when the adapter
    was made for another model or is of another kind, and ``WeightsUnavailable`` when the file
    cannot be read. In both cases the pipeline is unchanged.
    """
    for name, change in read_lora(pipeline, file).items():
        # Layer by layer: all products at once, in float32, would be as large as the model.
        weight = layer_of(pipeline, name, file).weight
        weight.data = change.merged(weight.data.float(), scale).to(weight.dtype)
