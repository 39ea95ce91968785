"""LoRA files, read as changes of layers and checked against the model."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from deployments.engine.interception.components import DENOISERS
from deployments.engine.lora.adapters import (
    DIFFERENCES,
    Adapter,
    adapters_in,
    change_of,
    part_of,
    rank_of,
)
from deployments.engine.lora.changes import Change, Convolution, DifferenceChange
from deployments.engine.lora.names import LayerNames, Target
from deployments.engine.lora.probes import UNEXPECTED, find_by_diffusers
from deployments.engine.reading.finite import DIVERGED, has_finite_values
from serve_app.domain.errors import Misconfigured, WeightsUnavailable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA that a generation uses."""

    file: Path  # *.safetensors, in any layout that ``read_lora`` reads
    scale: float = 1.0
    # denoiser that it changes, for files that name another one (transformer_2 of Wan 2.2 A14B)
    denoiser: str = ""
    # part of an endpoint: in use, it does not count against the limit for LoRAs of requests
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class LoraContents:
    """Changes of layers that a file makes, and what of it is not applied."""

    changes: Mapping[str, Change]  # by component.layer of the pipeline, on the CPU
    notes: Sequence[str] = ()  # sentences for the request's log, each with its reason


def read_lora(pipeline: Any, file: Path, denoiser: str = "") -> LoraContents:
    """Read the adapter in ``file`` as changes of the layers of ``pipeline``.

    Each tensor of the file is applied or in a note, or the file is refused.

    ``denoiser``: the one that the file changes, whichever it names; empty: the named one.
    It may be a LoRA, LoKr, LoHa or DoRA. Raises ``Misconfigured`` when it was made for another
    model or is of another kind, and ``WeightsUnavailable`` when the file cannot be read.
    """
    if not hasattr(pipeline, "lora_state_dict"):
        raise Misconfigured(f"{type(pipeline).__name__} does not support LoRAs ({file}).")
    tensors, settings = _read(file)
    try:
        return _contents(pipeline, tensors, settings, file, denoiser)
    except UNEXPECTED as error:
        raise Misconfigured(f"The LoRA {file} has an unknown layout: {error!r}") from error


def _contents(
    pipeline: Any,
    tensors: dict[str, Tensor],
    settings: Mapping[str, Any],
    file: Path,
    denoiser: str,
) -> LoraContents:
    adapters, others = adapters_in(tensors, file)
    ignored: defaultdict[str, list[str]] = defaultdict(list)  # tensors by reason
    for name in others:
        reason = _BUNDLED if name.startswith("bundle_emb.") else ""
        if not reason and tensors[name].any():
            raise Misconfigured(
                f"The LoRA {file} has tensors that are no part of an adapter, such as {name}. Use "
                "a LoRA, LoKr, LoHa or DoRA."
            )
        ignored[reason or _ZERO].append(name)
    names = LayerNames(pipeline)
    targets, unknown = _targets(pipeline, names, adapters, ignored, file)
    if unknown:
        raise Misconfigured(_refusal(pipeline, unknown, file))
    changes = _changes(pipeline, targets, settings, file, denoiser)
    if not changes:
        raise Misconfigured(f"The LoRA {file} has nothing that can be applied. Save it again.")
    return LoraContents(changes, [_note(reason, names) for reason, names in ignored.items()])


_ZERO = "zeros change nothing"
_BUNDLED = "embeddings of tokens are not part of a LoRA"
_REPEATED = "the file changes the same layers under other names too"
_NO_IMAGE = "this model takes no image as a condition"
_NO_PROJECTION = "this model does not use the projection of its text encoder"
_NO_MATRICES = "an alpha without matrices changes nothing"


def _targets(
    pipeline: Any,
    names: LayerNames,
    adapters: Mapping[str, Adapter],
    ignored: dict[str, list[str]],
    file: Path,
) -> tuple[list[tuple[Adapter, Target]], list[str]]:
    """Return the adapters with the layers that they change, those by the model's own names first,
    and the names of the layers that the model does not have. Adds to ``ignored``."""
    matches: list[tuple[Adapter, Sequence[Target]]] = []
    missing: list[Adapter] = []
    for adapter in adapters.values():
        _drop_zeros(adapter, ignored)
        if not adapter.parts:
            if adapter.tensors:
                ignored[_NO_MATRICES] += adapter.tensors
        elif targets := names.find(adapter.name):
            matches.append((adapter, targets))
        else:
            missing.append(adapter)
    if missing:
        by_diffusers = find_by_diffusers(pipeline, names, missing, file)
        matches += [
            (candidate, by_diffusers[candidate.name])
            for candidate in missing
            if candidate.name in by_diffusers
        ]
        missing = [candidate for candidate in missing if candidate.name not in by_diffusers]
    unknown: list[str] = []
    for adapter in missing:
        if reason := _reason_to_ignore(adapter):
            ignored[reason] += adapter.tensors
        else:
            unknown.append(adapter.name)
    pairs, overlapping = _without_repeats(matches, ignored)
    return pairs, unknown + overlapping


def _without_repeats(
    matches: list[tuple[Adapter, Sequence[Target]]], ignored: dict[str, list[str]]
) -> tuple[list[tuple[Adapter, Target]], list[str]]:
    """Return one adapter for each layer, by the model's own name if there is one, and the names of
    adapters that share only some of their layers with others. Some tools save layers twice."""
    matches = sorted(matches, key=lambda entry: not entry[1][0].is_own)
    taken: set[str] = set()
    overlapping: list[str] = []
    pairs: list[tuple[Adapter, Target]] = []
    for adapter, targets in matches:
        if taken.issuperset(place.layer for place in targets):
            ignored[_REPEATED] += adapter.tensors
            continue
        if not taken.isdisjoint(place.layer for place in targets):
            overlapping.append(adapter.name)
        taken.update(place.layer for place in targets)
        pairs += [(adapter, target) for target in targets]
    return pairs, overlapping


def _drop_zeros(adapter: Adapter, ignored: dict[str, list[str]]) -> None:
    """Leave out differences that are zero, as tools write them for each norm."""
    for part in DIFFERENCES:
        if part in adapter.parts and not adapter.parts[part].any():
            del adapter.parts[part]
            zeros = [name for name in adapter.tensors if part_of(name) == part]
            ignored[_ZERO] += zeros
            adapter.tensors = [name for name in adapter.tensors if name not in zeros]


def _reason_to_ignore(adapter: Adapter) -> str:
    """Reason for not applying an adapter whose layer the model does not have; "": there is none."""
    if adapter.is_zero:
        return _ZERO
    flat = adapter.name.replace(".", "_")
    if any(marker in flat for marker in ("cross_attn_k_img", "cross_attn_v_img", "img_emb_proj")):
        return _NO_IMAGE
    return _NO_PROJECTION if flat.endswith("text_projection") else ""


def _changes(
    pipeline: Any,
    targets: Sequence[tuple[Adapter, Target]],
    settings: Mapping[str, Any],
    file: Path,
    denoiser: str,
) -> dict[str, Change]:
    changes: dict[str, Change] = {}
    for adapter, target in targets:
        layer = layer_of(pipeline, target.layer, file)
        kernel = tuple(layer.weight.shape[2:])
        factor = _factor(target.layer, rank_of(adapter) or 1, settings)
        name = _rename_component(target.layer, denoiser) if denoiser else target.layer
        changes[name] = change_of(adapter, target, kernel, factor, file)
    for name, change in changes.items():
        _check(name, change, layer_of(pipeline, name, file), file)
    return changes


def _refusal(pipeline: Any, names: Sequence[str], file: Path) -> str:
    """Message about layers of a file that the model does not have."""
    trainer = next(
        (trainer for start, trainer in _TRAINERS.items() if names[0].startswith(start)), ""
    )
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return (
        f"The LoRA {file} was made for another model: this {type(pipeline).__name__} has no "
        f"{names[0]}{more}" + (f" (a name of {trainer})." if trainer else ".")
    )


_TRAINERS = {
    "lora_transformer_": "OneTrainer",
    "lora_unet_": "kohya's trainers or musubi",
    "lora_te": "kohya's trainers or OneTrainer",
    "lycoris_": "LyCORIS",
    "diffusion_model.": "ai-toolkit or ComfyUI",
    "base_model.model.": "peft, as fal's trainers use it",
    "transformer.": "diffusers",
    "unet.": "diffusers",
    "text_encoder": "diffusers",
    "double_blocks.": "Black Forest Labs or XLabs",
    "single_blocks.": "Black Forest Labs or XLabs",
}
"""Trainers by the beginnings of their names."""


def _note(reason: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"A tensor of the LoRA is not applied ({names[0]}): {reason}."
    return f"{len(names)} tensors of the LoRA are not applied ({names[0]} and others): {reason}."


def _rename_component(name: str, denoiser: str) -> str:
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
    return getattr(layer, "base_layer", layer)


def _check(name: str, change: Change, layer: Any, file: Path) -> None:
    weight: Tensor = layer.weight
    only_differs = isinstance(change, DifferenceChange) and change.adapter is None
    if not isinstance(layer, torch.nn.Linear | Convolution) and not (
        only_differs and weight.ndim == 1
    ):
        raise Misconfigured(
            f"The LoRA {file} changes {name}, a {type(layer).__name__}. "
            "Only linear layers, convolutions and norms are supported."
        )
    if not change.fits(weight):
        raise Misconfigured(
            f"The LoRA {file} was made for a model of another size: "
            f"{' and '.join(map(str, change.sizes()))} do not make {tuple(weight.shape)} "
            f"of {name}."
        )


def _read(file: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read the tensors of a file, and the settings that were saved with it (empty if none)."""
    try:
        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            settings = json.loads((opened.metadata() or {}).get(_SETTINGS, "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise WeightsUnavailable(f"The LoRA {file} cannot be read: {error}") from error
    _check_settings(settings, file)
    _check_alphas(tensors, file)
    if broken := [name for name, tensor in tensors.items() if not has_finite_values(tensor)]:
        raise Misconfigured(f"The LoRA {file} cannot be applied: {broken[0]} {DIVERGED}")
    return tensors, settings


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
        if odd := [key for key in alphas if not _LAYER_NAME.fullmatch(key)]:
            raise Misconfigured(
                f"The settings of the LoRA {file} name layers by a regular expression ({odd[0]}), "
                "which is not evaluated. Save them with the names of the layers."
            )


def _check_alphas(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Raise ``Misconfigured`` for alphas with which diffusers fails, or never ends if negative."""
    for name, alpha in tensors.items():
        if name.endswith(".alpha") and not (alpha.numel() == 1 and 0 <= float(alpha) < math.inf):
            raise Misconfigured(f"The LoRA {file} has an alpha that is no positive number: {name}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _factor(name: str, rank: int, settings: Mapping[str, Any]) -> float:
    """Compute a layer's factor from the settings that diffusers saves with the weights.

    Each setting's name is prefixed with the component's name. The factor is 1 without settings.
    """
    component, _, path = name.partition(".")
    patterns: Mapping[str, float] = settings.get(f"{component}.alpha_pattern") or {}
    usual: float = settings.get(f"{component}.lora_alpha", rank)
    alpha = next((value for pattern, value in patterns.items() if _is_for(pattern, path)), usual)
    return alpha / (math.sqrt(rank) if settings.get(f"{component}.use_rslora") else rank)


def _is_for(layer_name: str, path: str) -> bool:
    """Return whether a name in a pattern is a layer's path or, without ``^``, the end of it."""
    name = layer_name.replace("\\.", ".").removesuffix("$")
    return path == name[1:] if name.startswith("^") else f".{path}".endswith(f".{name}")


_LAYER_NAME = re.compile(r"\^?(\w|\\?\.|-)*\$?")
_SETTINGS = "lora_adapter_metadata"  # diffusers' name for the settings in the file's header


# Adapters that are part of an endpoint, merged into the weights once when the model is loaded. A
# generation costs the same as without them, and nothing is switched between generations.


def merge_lora(pipeline: Any, file: Path, scale: float = 1.0) -> None:
    """Merge the adapter in ``file`` into the weights of ``pipeline``.

    The file may have any layout that ``read_lora`` reads. Raises ``Misconfigured`` when the adapter
    was made for another model or is of another kind, and ``WeightsUnavailable`` when the file
    cannot be read. In both cases the pipeline is unchanged.
    """
    contents = read_lora(pipeline, file)
    for note in contents.notes:
        log.warning("%s: %s", file, note)
    for name, change in contents.changes.items():
        # Layer by layer: all products at once, in float32, would be as large as the model.
        layer = layer_of(pipeline, name, file)
        weight = layer.weight
        if isinstance(change, DifferenceChange) and change.bias is not None:
            before = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias
            added = before.float() + scale * change.bias.to(before.device).float()
            layer.bias = torch.nn.Parameter(added.to(before.dtype), requires_grad=False)
        weight.data = change.merge(weight.data.float(), scale).to(weight.dtype)
