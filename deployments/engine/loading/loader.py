"""Loads any diffusers pipeline from a directory or from the store of weights, and no code with it.

Only safetensors are read, because a pickle runs code when it is loaded; and only classes that
diffusers and transformers ship, because a repository may name its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from deployments.engine.module_building import ONE_BUILDER
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.domain.store_config import StoreConfig
from weights.store import Store, is_of_hub

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")


def load_pipeline(
    weights: Weights,
    *,
    dtype: str = "float32",
    on_download: Callable[[int, int], None] | None = None,
    store: Store | None = None,
) -> Any:
    """The pipeline on the CPU, in evaluation mode.

    ``on_download`` gets bytes done and bytes in all while the weights are fetched, on another
    thread; what it raises ends the download. Without a ``store`` the hub's own cache is used.

    ``WeightsUnavailable`` when there is nothing usable, ``Misconfigured`` for an unpinned revision
    or an unknown dtype; the messages say what to do. Slow: call it on a thread of its own.
    """
    if dtype not in _DTYPES:
        raise Misconfigured(f"dtype {dtype!r} is none of {', '.join(_DTYPES)}.")
    with _folder_of(weights, store, on_download) as folder:
        _check(folder)
        try:
            # Without bars: several processes write to one log.
            diffusers.utils.logging.disable_progress_bar()
            transformers.utils.logging.disable_progress_bar()
            with ONE_BUILDER:
                return DiffusionPipeline.from_pretrained(
                    str(folder),
                    dtype=_DTYPES[dtype],
                    variant=weights.variant,
                    use_safetensors=True,
                    local_files_only=True,
                )
        except (OSError, ValueError, KeyError, AttributeError, ImportError, TypeError) as error:
            raise WeightsUnavailable(f"{weights.source} cannot be loaded: {error}") from error


def _folder_of(
    weights: Weights, store: Store | None, on_download: Callable[[int, int], None] | None
) -> contextlib.AbstractContextManager[Path]:
    if is_of_hub(weights):
        return (store or Store(StoreConfig())).open(weights, on_download)
    path = Path(weights.source)
    if path.is_dir():
        return contextlib.nullcontext(path)
    raise WeightsUnavailable(
        f"The directory {weights.source} does not exist on this node. Put the pipeline there, or "
        "name a hub repository as owner/name with a revision."
    )


def _check(folder: Path) -> None:
    index = _read_index(folder)
    name = index.get("_class_name")
    pipeline_class = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, DiffusionPipeline)):
        raise WeightsUnavailable(
            f"{folder} asks for the pipeline {name!r}, which diffusers {diffusers.__version__} "
            "does not have. Code from a repository is not run."
        )
    for component, library, class_name in _components(index):
        _check_component(folder, component, library, class_name)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise WeightsUnavailable(
            f"{folder} is not a diffusers pipeline: it has no model_index.json. A single file or "
            "another format has to be converted with save_pretrained first."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsUnavailable(f"{path} is not JSON: {error}") from error
    if not isinstance(index, dict):
        raise WeightsUnavailable(f"{path} is not a JSON object.")
    return index


def _components(index: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for component, value in index.items():
        match value:
            case [str(library), str(class_name)] if not component.startswith("_"):
                yield component, library, class_name
            case _:
                continue  # settings of the pipeline, not a component


def _check_component(folder: Path, component: str, library: str, class_name: str) -> None:
    kind = _class_of(library, class_name)
    if kind is None or (folder / component / f"{library}.py").exists():
        raise WeightsUnavailable(
            f"{folder} asks for {library}.{class_name} as its {component}, which neither diffusers "
            "nor transformers has. Code from a repository is not run."
        )
    if not issubclass(kind, torch.nn.Module):
        return
    where = folder / component if (folder / component).is_dir() else folder
    if any(where.glob("*.safetensors")):
        return
    if any(next(where.glob(pattern), None) for pattern in _PICKLES):
        raise WeightsUnavailable(
            f"{where} has its weights only as a pickle, which can run code and is never loaded. "
            "Convert them: load the pipeline where you trust it and save it with "
            "safe_serialization=True."
        )
    raise WeightsUnavailable(f"{where} has no *.safetensors: the {component} is missing.")


def _class_of(library: str, class_name: str) -> type | None:
    if library == "diffusers":
        home: Any = diffusers
    elif library == "transformers":
        home = transformers
    elif library.isidentifier():
        home = getattr(diffusers.pipelines, library, None)  # such as `stable_diffusion`
    else:
        home = None
    if home is None or not getattr(home, "__name__", "").startswith(("diffusers", "transformers")):
        return None
    kind = getattr(home, class_name, None)
    return kind if isinstance(kind, type) else None
