"""Selection of the files that a diffusers pipeline loads. Pure functions of the file names.

Single files at the root, other precisions, other frameworks and pickles are left out: they are
often more than half of a repository.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import (
    INDEX,
    Component,
    adapter_files,
    components,
    index_file,
    top_folders,
)

SETTINGS = (".json", ".txt", ".model", ".jinja", ".spm", ".tiktoken")
"""File extensions of configurations, tokenizers and schedulers."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

NAMED_FILES = 20  # in a message

_SHARD = r"-\d{5}-of-\d{5}"
_STEMS = {"transformers": "model"}
"""File name before the extension, by library. A folder may also have files of another name for
another library, as large again."""
_STEM = r"(?:diffusion_pytorch_model|model)"


def select(
    names: Sequence[str],
    index: Mapping[str, Any] | None,
    variant: str | None,
    repository: str,
    without: Collection[str] = (),
) -> frozenset[str]:
    """Names of the files to load. ``index`` is that of a pipeline; without it, all safetensors and
    settings are taken, as for a LoRA's repository. A component without ``variant`` uses its plain
    weights, and one of ``without`` only its settings.

    ``WeightsUnavailable`` if a component has its weights only as a pickle, or nothing is left.
    """
    if index is None:
        selected = frozenset(n for n in names if n.endswith((*SETTINGS, ".safetensors")))
    else:
        own = {index_file(names) or INDEX, *adapter_files(index)}
        folders = top_folders(names)
        selected = frozenset(own).union(
            *(
                _of_component(
                    names, model, variant, repository, with_weights=component.name not in without
                )
                for component in components(index)
                for model in component.models(folders)
            )
        )
    if not without and not any(name.endswith(".safetensors") for name in selected):
        raise WeightsUnavailable(
            f"{repository} has no safetensors that a pipeline could load. Pickle files can run "
            "code and are never loaded. A single file is the `checkpoint` of a pipeline's weights."
        )
    return selected


def select_component(names: Collection[str], folder: str, repository: str) -> frozenset[str]:
    """Names of the files of one component, in a folder or, if that is empty, in none.
    ``WeightsUnavailable`` if there are none, or its weights are only a pickle."""
    component = Component(folder or repository, "", "", folder)
    beside = [name for name in names if name.startswith(f"{folder}/")] if folder else names
    selected = _of_component(beside, component, None, repository, with_weights=True)
    if not selected:
        raise WeightsUnavailable(f"{repository} has no component in its folder {folder!r}.")
    return selected


LORA_FILE = "pytorch_lora_weights.safetensors"
"""File name that diffusers uses when it saves a LoRA."""


def select_lora(names: Sequence[str], repository: str, file: str | None = None) -> str:
    """The file ``file`` of a LoRA's repository. If no name is set: diffusers' own name, or the only
    safetensors file. ``WeightsUnavailable`` lists the available files."""
    kind = "gguf" if file is not None and file.endswith(".gguf") else "safetensors"
    candidates = sorted(name for name in names if name.endswith(f".{kind}"))
    if file in candidates:
        return file
    if file is None and LORA_FILE in candidates:
        return LORA_FILE
    if file is None and len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise WeightsUnavailable(
            f"{repository} has no {kind}. Pickle files can run code and are never loaded."
        )
    shown = ", ".join(candidates[:NAMED_FILES]) + (" …" if len(candidates) > NAMED_FILES else "")
    if file is not None:
        raise WeightsUnavailable(f"{repository} has no file {file}. Its {kind}: {shown}")
    raise WeightsUnavailable(
        f"{repository} has {len(candidates)} safetensors: name the one to use, as "
        f"{repository}/file.safetensors. They are {shown}"
    )


def _of_component(
    names: Collection[str],
    component: Component,
    variant: str | None,
    repository: str,
    *,
    with_weights: bool,
) -> frozenset[str]:
    folder = f"{component.folder}/"
    inside = {path.removeprefix(folder): path for path in names if path.startswith(folder)}
    if not inside:
        # Some repositories have a component's files at the root.
        inside = {name: name for name in names if "/" not in name}
    weights = _weights(list(inside), variant, component.library) if with_weights else []
    if with_weights and not weights and any(name.endswith(PICKLES) for name in inside):
        raise WeightsUnavailable(
            f"{repository} has the weights of its {component.name} only as a pickle, which can run "
            "code and is never loaded. Convert them: load the pipeline where you trust it, save it "
            "with safe_serialization=True, and serve that directory."
        )
    settings = {n for n in inside if n.endswith(SETTINGS) and ".index." not in n}
    return frozenset(inside[name] for name in (*weights, *settings))


def _weights(names: Sequence[str], variant: str | None, library: str) -> list[str]:
    """A whole file, or shards with their index, not both. Of the variant, if it exists."""
    stem = _STEMS.get(library, _STEM)
    if variant is not None:
        v = re.escape(variant)
        whole = rf"{stem}\.{v}\.safetensors"
        shards = rf"{stem}(?:\.{v}{_SHARD}|{_SHARD}\.{v})\.safetensors"
        index = rf"{stem}\.safetensors\.(?:index\.{v}|{v}\.index)\.json"
        if selected := _one_form(names, whole, shards, index, library):
            return selected
    return _one_form(
        names,
        rf"{stem}\.safetensors",
        rf"{stem}{_SHARD}\.safetensors",
        rf"{stem}\.safetensors\.index\.json",
        library,
    )


def _one_form(names: Sequence[str], whole: str, shards: str, index: str, library: str) -> list[str]:
    single = [name for name in names if re.fullmatch(whole, name)]
    parts = [name for name in names if re.fullmatch(shards, name)]
    indexes = [name for name in names if re.fullmatch(index, name)]
    sharded = [*parts, *indexes] if parts and indexes else []
    # If both exist, transformers loads the whole file and diffusers the shards.
    first, second = (single, sharded) if library == "transformers" else (sharded, single)
    return first or second
