"""Single-file checkpoints: which components of a pipeline one file holds, by the names of its
tensors. Pure functions of a header."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.gguf import QUANTIZED
from serve_app.domain.pipeline_index import components as components_of

SUFFIXES = (".safetensors", ".gguf")

DENOISERS = ("transformer", "unet")
_T5 = "T5EncoderModel"

_PREFIXES = {
    "model.diffusion_model.": "denoiser",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "text_encoders.clip_l.": "text_encoder",
    "text_encoders.clip_g.": "text_encoder_2",
    "text_encoders.t5xxl.": _T5,
}
"""Beginning of a tensor's name in the layouts of the original repositories and of ComfyUI: its
part."""

SCALES = (".scale_weight", ".weight_scale")
"""Ends of the names of what the values of an FP8 weight are multiplied with."""

MARK = "scaled_fp8"
NOTES = (".scale_input", ".input_scale", ".comfy_quant", MARK)
"""Ends of the names of tensors that are no weights: a weight of 8 bits needs none of them."""

_LANGUAGE_MODEL = ("token_embd.", "blk.", "enc.blk.", "dec.blk.", "v.blk.")
"""Beginnings of names that llama.cpp gives to tensors of language models."""

_VALUES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", *QUANTIZED)

_FORMATS = {
    b"PK\x03\x04": "a pickle, which can run code and is never loaded",
    b"\x80\x02": "a pickle, which can run code and is never loaded",
}
"""Beginnings of files that are neither safetensors nor GGUF."""

INSTEAD = "Use safetensors of the model in 16 bits, or in FP8 with or without scales, or a GGUF."

Held = Mapping[str, Collection[str]]
"""Component: names of its tensors."""


def held_components(names: Iterable[str], index: Mapping[str, Any]) -> Held:
    """Components of the pipeline ``index`` (model_index.json) that a file with these tensors holds.

    A file without any of the known beginnings holds the denoiser alone. Tensors of nothing that the
    pipeline has are left out, such as averages that training needs.
    """
    parts = defaultdict[str, list[str]](list)
    for name in names:
        parts[
            next((part for begin, part in _PREFIXES.items() if name.startswith(begin)), "")
        ].append(name)
    if parts.keys() == {""}:
        parts = {"denoiser": parts[""]}
    tensors: dict[str, Collection[str]] = {}
    for component, class_name in _classes(index).items():
        part = "denoiser" if component in DENOISERS else component
        if class_name == _T5:
            part = _T5
        if part in parts:
            tensors[component] = parts[part]
    return tensors


def check_format(file: str, begin: bytes) -> None:
    """Raise ``WeightsUnavailable`` for a file of another format; ``begin``: its first bytes."""
    for mark, what in _FORMATS.items():
        if begin.startswith(mark):
            raise WeightsUnavailable(f"{file} is {what}. {INSTEAD}")


def check_checkpoint(
    file: str,
    dtypes: Mapping[str, str],
    index: Mapping[str, Any],
    components: Collection[str],
) -> Held:
    """Names of the tensors of ``components`` in ``file``, a checkpoint for the pipeline ``index``.

    ``dtypes``: types of all tensors of the file, as safetensors names them. ``WeightsUnavailable``
    says what the file is and what to do, if it cannot be read as these components.
    """
    if any(name.startswith(_LANGUAGE_MODEL) for name in dtypes):
        raise WeightsUnavailable(
            f"{file} is a language model with the names of llama.cpp, which are not read. Leave it "
            "out: the text encoder comes from the pipeline itself."
        )
    classes, tensors = _classes(index), held_components(dtypes, index)
    if unknown := [part for part in components if part not in classes]:
        raise WeightsUnavailable(
            f"{file} is to replace {', '.join(unknown)}, which {index.get('_class_name')} does "
            f"not have. Its components are {', '.join(classes)}."
        )
    if len(components) == 1 and not any(name.startswith((*_PREFIXES,)) for name in dtypes):
        tensors = {next(iter(components)): [*dtypes]}
    if missing := [part for part in components if part not in tensors]:
        raise WeightsUnavailable(
            f"{file} has no tensors of {', '.join(missing)}: it holds "
            f"{', '.join(tensors) or 'nothing that the pipeline has'}. Name only these as "
            "`components`; the others come from the pipeline itself."
        )
    if any(name.endswith(MARK) for name in dtypes) and not any(
        name.endswith(SCALES) for name in dtypes
    ):
        raise WeightsUnavailable(
            f"{file} says that its FP8 weights have scales ({MARK}), and has none of them, so its "
            "values are not known. Download it again, or from another place."
        )
    for component in components:
        _check_types(file, component, {name: dtypes[name] for name in tensors[component]})
    return {part: tensors[part] for part in components}


def _check_types(file: str, component: str, dtypes: Mapping[str, str]) -> None:
    weights = {
        name: dtype for name, dtype in dtypes.items() if not name.endswith((*SCALES, *NOTES))
    }
    other = {dtype for dtype in weights.values() if dtype not in _VALUES}
    if other:
        name = next(name for name, dtype in weights.items() if dtype in other)
        raise WeightsUnavailable(
            f"{file} holds the {component} quantised in a way that is not read ({name} is "
            f"{dtypes[name]}). {INSTEAD} A recipe with `precision: float8` makes it smaller on "
            "the GPU."
        )


def _classes(index: Mapping[str, Any]) -> dict[str, str]:
    """Class of each component of a pipeline."""
    return {component.name: component.class_name for component in components_of(index)}
