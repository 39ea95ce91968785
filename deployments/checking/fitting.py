"""Comparison of weights with their base: a LoRA by the engine's own reader, a fine-tune by the
names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deployments.checking.base_model import BaseFiles, skeleton
from deployments.checking.fetching import FetchedFile
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.domain.safetensors import SafetensorsHeader, TensorFacts, read_header

LORA, FINETUNE = "lora", "finetune"
LORA_NAME = "lora.safetensors"
_ADAPTER = re.compile(
    r"\.(?:lora_(?:A|B|up|down|mid)\b|lora_magnitude|dora_scale|lokr_|hada_|oft_)"
)
"""Names that every adapter has. Some models have tensors that are called ``alpha``, as adapters
do."""
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
STEMS = {"transformers": "model"}
STEM = "diffusion_pytorch_model"


def kind_of(header: SafetensorsHeader) -> str:
    """Kind of the weights in a single file, by the names of its tensors."""
    return LORA if any(_ADAPTER.search(f".{name}") for name in header.tensors) else FINETUNE


def checked_lora(
    base: BaseFiles, files: Sequence[FetchedFile], max_bytes: int
) -> Mapping[str, FetchedFile]:
    """The LoRA by its path. ``WeightsUnavailable`` unless the engine can apply it to the base."""
    from deployments.engine.lora.format import read_lora  # noqa: PLC0415  # imports torch

    if len(files) > 1:
        raise WeightsUnavailable("A LoRA is one file. Name it, or add a fine-tune.")
    (fetched_file,) = files
    if fetched_file.size > max_bytes:
        raise WeightsUnavailable(
            f"The LoRA has {fetched_file.size} bytes; {max_bytes} are allowed "
            "(DARKROOM_MAX_ADAPTER_BYTES)."
        )
    file = fetched_file.file.with_name(LORA_NAME)  # the reader takes files with this suffix only
    fetched_file.file.rename(file)
    try:
        read_lora(skeleton(base), file)
    except (Misconfigured, WeightsUnavailable) as error:
        raise WeightsUnavailable(error.message.replace(f" {file}", "")) from error
    return {LORA_NAME: replace(fetched_file, path=LORA_NAME, file=file)}


def place_files(
    base: BaseFiles, files: Sequence[FetchedFile], headers: Mapping[str, SafetensorsHeader]
) -> Mapping[str, FetchedFile]:
    """Files of a fine-tune by their path in the pipeline's folder, without those that equal the
    base's. ``WeightsUnavailable`` names the first tensor that does not fit."""
    by_component: dict[str, list[FetchedFile]] = {}
    for file in files:
        component = file.path.partition("/")[0] if "/" in file.path else ""
        if component not in base.libraries():
            component = _component_of(base, headers[file.digest])
        by_component.setdefault(component, []).append(file)
    by_path: dict[str, FetchedFile] = {}
    for component, parts in by_component.items():
        if frozenset(part.digest for part in parts) == base.digests(component):
            continue
        _compare(component, base.tensors(component), [headers[part.digest] for part in parts])
        stem = STEMS.get(base.libraries()[component], STEM)
        for number, file in enumerate(sorted(parts, key=lambda part: part.path), start=1):
            shard = f"-{number:05}-of-{len(parts):05}" if len(parts) > 1 else ""
            by_path[f"{component}/{stem}{shard}.safetensors"] = file
    if not by_path:
        raise WeightsUnavailable(
            "Every file equals that of the base, so there is nothing to register. Use the base's "
            "own endpoint."
        )
    return by_path


def check_values(file: Path) -> None:
    """Raise ``WeightsUnavailable`` if a value is not a finite number: every image would be black.

    Reads the whole file once.
    """
    from safetensors import safe_open  # noqa: PLC0415

    from deployments.engine.reading.finite import DIVERGED, has_finite_values  # noqa: PLC0415

    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # it is no mapping
            if not has_finite_values(opened.get_tensor(name)):
                raise WeightsUnavailable(f"{name} {DIVERGED}")


def _component_of(base: BaseFiles, header: SafetensorsHeader) -> str:
    """Component that a single file replaces: the one that has most of its tensors."""
    known = {name: base.tensors(name) for name in base.libraries() if base.weights_of(name)}
    hits = {name: len(header.tensors.keys() & tensors.keys()) for name, tensors in known.items()}
    best = max(hits, key=lambda name: hits[name], default="")
    if not best or not hits[best]:
        first = min(header.tensors)
        raise WeightsUnavailable(
            f"No component of the base has the tensor {first}. A fine-tune must have the names of "
            "diffusers: load a file in another layout with from_single_file, and save it with "
            "save_pretrained."
        )
    return best


def _compare(
    component: str, base: Mapping[str, TensorFacts], headers: Iterable[SafetensorsHeader]
) -> None:
    tensors: dict[str, TensorFacts] = {}
    for header in headers:
        for name, facts in header.tensors.items():
            if name in tensors:
                raise WeightsUnavailable(f"{component}: two files have the tensor {name}.")
            tensors[name] = facts
    for name in sorted(tensors):
        facts, own = tensors[name], base.get(name)
        if own is None:
            raise WeightsUnavailable(
                f"{component}: the base has no tensor {name} (its shape here is {facts})."
            )
        if facts.shape != own.shape:
            raise WeightsUnavailable(
                f"{component}: the tensor {name} has the shape {facts}, and that of the base has "
                f"{own}."
            )
        if (facts.dtype in FLOATS) != (own.dtype in FLOATS):
            raise WeightsUnavailable(
                f"{component}: the tensor {name} is of {facts.dtype}, and that of the base of "
                f"{own.dtype}. Save the weights as float32, float16 or bfloat16."
            )
    missing = sorted(base.keys() - tensors.keys())
    if missing:
        raise WeightsUnavailable(
            f"{component}: the tensor {missing[0]} of the base, {base[missing[0]]}, is missing"
            f"{f', and {len(missing) - 1} more' if len(missing) > 1 else ''}."
        )


def read_headers(files: Sequence[FetchedFile]) -> Mapping[str, SafetensorsHeader]:
    """Headers by digest. ``WeightsUnavailable`` names the file that is not valid."""
    return {file.digest: read_header(file.file, file.path) for file in files}
