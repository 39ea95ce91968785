"""Which files of a repository a diffusers pipeline loads: pure, by their names alone.

Single files at the root, other precisions, other frameworks and pickles stay where they are: of
a repository as it is published these are often more than half.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from serve_app.domain.errors import WeightsUnavailable

SETTINGS = (".json", ".txt", ".model", ".jinja", ".spm", ".tiktoken")
"""What configurations, tokenizers and solvers are kept in."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

NAMED_FILES = 20  # in a message

_SHARD = r"-\d{5}-of-\d{5}"
_STEM = r"(?:diffusion_pytorch_model|model)"


def select(
    names: Sequence[str],
    index: Mapping[str, Any] | None,
    variant: str | None,
    repository: str,
) -> frozenset[str]:
    """``index`` is model_index.json; without one, all safetensors and settings are taken, as a
    repository of an adapter has them. A component without ``variant`` has its plain weights taken.

    ``WeightsUnavailable`` when a component has its weights only as a pickle, or nothing is left.
    """
    if index is None:
        found = frozenset(n for n in names if n.endswith((*SETTINGS, ".safetensors")))
    else:
        found = frozenset({"model_index.json"}).union(
            *(_of_component(names, *each, variant, repository) for each in components(index))
        )
    if not any(name.endswith(".safetensors") for name in found):
        raise WeightsUnavailable(
            f"{repository} has no safetensors that a pipeline could load. A pickle can run code "
            "and is never loaded; a single file has to be converted with save_pretrained first."
        )
    return found


ADAPTER_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file when it saves an adapter."""


def select_adapter(names: Sequence[str], repository: str, file: str | None = None) -> str:
    """``file`` of an adapter's repository, or the one that is meant when none is named: diffusers'
    own name, or the only safetensors. ``WeightsUnavailable`` lists those that there are."""
    found = sorted(name for name in names if name.endswith(".safetensors"))
    if file in found:
        return file
    if file is None and ADAPTER_FILE in found:
        return ADAPTER_FILE
    if file is None and len(found) == 1:
        return found[0]
    if not found:
        raise WeightsUnavailable(
            f"{repository} has no safetensors. A pickle can run code and is never loaded."
        )
    shown = ", ".join(found[:NAMED_FILES]) + (" …" if len(found) > NAMED_FILES else "")
    if file is not None:
        raise WeightsUnavailable(f"{repository} has no file {file}. Its safetensors: {shown}")
    raise WeightsUnavailable(
        f"{repository} has {len(found)} safetensors: name the one that is meant, as "
        f"{repository}/file.safetensors. They are {shown}"
    )


def components(index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and library of each component that is there."""
    for name, value in index.items():
        match value:
            case [str(library), str()] if not name.startswith("_"):
                yield name, library
            case _:
                continue  # a setting of the pipeline, or a component that it goes without


def _of_component(
    names: Collection[str], component: str, library: str, variant: str | None, repository: str
) -> frozenset[str]:
    inside = {n.removeprefix(f"{component}/"): n for n in names if n.startswith(f"{component}/")}
    if not inside:
        # Some repositories have a component's files at the root.
        inside = {name: name for name in names if "/" not in name}
    weights = _weights(list(inside), variant, library)
    if not weights and any(name.endswith(PICKLES) for name in inside):
        raise WeightsUnavailable(
            f"{repository} has the weights of its {component} only as a pickle, which can run code "
            "and is never loaded. Convert them: load the pipeline where you trust it, save it with "
            "safe_serialization=True, and serve that directory."
        )
    settings = {n for n in inside if n.endswith(SETTINGS) and ".index." not in n}
    return frozenset(inside[name] for name in (*weights, *settings))


def _weights(names: Sequence[str], variant: str | None, library: str) -> list[str]:
    """Whole or in shards with their index, not both; of the variant, if there is one."""
    if variant is not None:
        v = re.escape(variant)
        whole = rf"{_STEM}\.{v}\.safetensors"
        shards = rf"{_STEM}(?:\.{v}{_SHARD}|{_SHARD}\.{v})\.safetensors"
        index = rf"{_STEM}\.safetensors\.(?:index\.{v}|{v}\.index)\.json"
        if found := _one_form(names, whole, shards, index, library):
            return found
    return _one_form(
        names,
        rf"{_STEM}\.safetensors",
        rf"{_STEM}{_SHARD}\.safetensors",
        rf"{_STEM}\.safetensors\.index\.json",
        library,
    )


def _one_form(names: Sequence[str], whole: str, shards: str, index: str, library: str) -> list[str]:
    single = [name for name in names if re.fullmatch(whole, name)]
    parts = [name for name in names if re.fullmatch(shards, name)]
    indexes = [name for name in names if re.fullmatch(index, name)]
    sharded = [*parts, *indexes] if parts and indexes else []
    # Where both are there, transformers takes the whole file and diffusers the shards.
    first, second = (single, sharded) if library == "transformers" else (sharded, single)
    return first or second
