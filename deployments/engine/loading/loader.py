"""Loader of diffusers pipelines from a directory, without their code.

Only safetensors are read, because a pickle runs code when it is loaded. Only classes from diffusers
and transformers are used, because a repository may name its own.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers.utils.logging
from diffusers.models import MultiControlNetUnionModel
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec

from deployments.engine.accelerator.cpu import Cpu
from deployments.engine.default_dtype import own_default_dtype
from deployments.engine.interception.modular import blocks_of, is_modular, workflows
from deployments.engine.loading.ip_adapter import add_ip_adapters
from deployments.engine.loading.processors import without_torchvision
from deployments.engine.pipelines import pipeline_class
from deployments.engine.reading.headers import UnknownDtype, WeightFile
from deployments.engine.reading.reader import Home, WeightReader
from deployments.engine.reading.single_file import open_checkpoint, read_checkpoint
from deployments.engine.reading.unread import OpenedFiles, placeholders, reads_later
from deployments.engine.threads import ONE_BUILDER
from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.domain.pipeline_index import (
    INDEX,
    INDEXES,
    IP_ADAPTER,
    Component,
    adapter_files,
    components,
    parse_index,
    top_folders,
)
from serve_app.domain.progress import OnDownload

log = logging.getLogger(__name__)

# diffusers has this class in `models` only, and looks for the classes of an index at its top.
setattr(diffusers, MultiControlNetUnionModel.__name__, MultiControlNetUnionModel)

OpenWeights = Callable[[Weights, OnDownload | None], contextlib.AbstractContextManager[Path]]
"""Opens weights that are not a directory, downloading them if needed, such as ``Store.open``."""

SelectFiles = Callable[
    [Sequence[str], Mapping[str, Any], str | None, str, Collection[str]], Collection[str]
]
"""Chooses a pipeline's files, such as ``weights.selection.select``."""

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")


def load_pipeline(
    weights: Weights,
    *,
    dtype: str | Mapping[str, str] = "float32",
    on_download: OnDownload | None = None,
    open_weights: OpenWeights | None = None,
) -> Any:
    """Load a pipeline on the CPU, in evaluation mode.

    Inside ``reading_later`` its weights are not read yet: ``Placement.apply`` reads them straight
    to their places.

    ``dtype``: of all components, or a mapping from components to theirs, with ``default`` for the
    others.
    ``open_weights``: for weights that are not a directory; without it, they are refused.
    ``on_download`` gets bytes done and total bytes while it fetches them, on another thread; an
    exception from it ends the download.

    Raises ``WeightsUnavailable`` when there are no usable weights, and ``Misconfigured`` for an
    unknown dtype or component of ``dtype``; the messages say what to do. It is slow: call it on a
    separate thread.
    """
    dtypes = _by_component(dtype)
    with _folder_of(weights, open_weights, on_download) as folder:
        _check(folder, dtypes, weights.components)
        try:
            # No progress bars: several processes write to one log.
            diffusers.utils.logging.disable_progress_bar()
            transformers.utils.logging.disable_progress_bar()
            pipeline = _build_pipeline(folder, dtypes, weights)
        except (OSError, ValueError, KeyError, AttributeError, ImportError, TypeError) as error:
            raise WeightsUnavailable(f"{weights.source} cannot be loaded: {error}") from error
    if not reads_later():
        read_now(pipeline)
    return pipeline


def read_now(pipeline: Any) -> None:
    """Read all weights that were not read yet into host memory.

    For code that changes weights before the pipeline is placed. Raises ``WeightsUnavailable``.
    """
    modules = [value for value in vars(pipeline).values() if isinstance(value, torch.nn.Module)]
    WeightReader(Cpu()).read([(module, Home.HOST) for module in modules])


def _build_pipeline(folder: Path, dtypes: Mapping[str, torch.dtype], weights: Weights) -> Any:
    """Build the pipeline with weights that are not read yet.

    The weights of components for which that is impossible are read by diffusers or transformers.
    """
    modules: Mapping[str, torch.nn.Module] = {}
    if weights.components:
        index = read_index(folder)
        classes = {e.name: class_of(e.library, e.class_name) for e in components(index)}
        with ONE_BUILDER, own_default_dtype():
            modules = read_checkpoint(weights, folder, index, classes, dtypes)
    usual = set[Path]()
    while True:
        files = OpenedFiles(folder, usual)
        try:
            with ONE_BUILDER, own_default_dtype(), placeholders(files), without_torchvision():
                pipeline = _pipeline(folder, dtypes, weights.variant, modules)
            if not files.refused_folders():
                return pipeline
        except Exception:
            if not files.refused_folders():
                raise
        # transformers catches the errors of conversions, so this is also for what has succeeded.
        for path, operation in files.refused_folders().items():
            log.info("%s is read by its library, which needs %s for it.", path, operation)
            usual.add(path)


def _pipeline(
    folder: Path, dtypes: Mapping[str, torch.dtype], variant: str | None, modules: Mapping[str, Any]
) -> Any:
    """``modules``: components that were read already."""
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    index = read_index(folder)
    kind: Any = pipeline_class(index["_class_name"])
    if not is_modular(kind):
        modules = {
            **_control_nets(folder, index, dtypes, variant),
            **_lost_by_diffusers(kind, folder, index, dtypes, variant),
            **modules,
        }
        options |= {"dtype": dtypes, "variant": variant}
        pipeline = kind.from_pretrained(str(folder), **options, **modules)
        if adapters := adapter_files(index):
            add_ip_adapters(pipeline, [folder / adapter for adapter in adapters])
        return pipeline
    by_name = {component.name: component for component in components(index)}
    settings = {name: value for name, value in index.items() if name not in by_name}
    pipeline = kind(blocks=blocks_of(kind, by_name), modular_config_dict=settings)
    loaded = {
        name: modules.get(name)
        or ComponentSpec(name, class_of(component.library, component.class_name)).load(
            pretrained_model_name_or_path=str(folder),
            subfolder=component.folder,
            variant=variant if _has_variant(folder / component.folder, variant) else None,
            dtype=dtypes.get(name, dtypes["default"]),
            **options,
        )
        for name, component in by_name.items()
        if name in pipeline.pretrained_component_names
    }
    pipeline.register_components(**loaded)
    return pipeline


def _control_nets(
    folder: Path,
    index: Mapping[str, Any],
    dtypes: Mapping[str, torch.dtype],
    variant: str | None,
) -> Mapping[str, torch.nn.Module]:
    """Components that are several ControlNets together, of which diffusers loads but some."""
    control_nets: dict[str, torch.nn.Module] = {}
    for component in components(index):
        if not component.is_several:
            continue
        kind: Any = class_of(component.library, component.class_name)
        dtype = dtypes.get(component.name, dtypes["default"])
        nets: list[torch.nn.Module] = []
        for model in component.models(_folders_in(folder)):
            alone: Any = class_of(model.library, model.class_name)
            nets.append(_component(alone, folder / model.folder, dtype, variant))
        control_nets[component.name] = kind(nets).eval()
    return control_nets


def _lost_by_diffusers(
    kind: Any,
    folder: Path,
    index: Mapping[str, Any],
    dtypes: Mapping[str, torch.dtype],
    variant: str | None,
) -> Mapping[str, Any]:
    """Components that diffusers 0.42 saves and does not load again: models of transformers that it
    takes for those of its pipelines in a folder of the same name (``diffusion_gemma``), and those
    with a default that the class does not call optional (the tokenizer of ``LLaDA2Pipeline``)."""
    _, with_default = kind._get_signature_keys(kind)  # noqa: SLF001  what diffusers goes by
    lost: dict[str, Any] = {}
    for component in components(index):
        own: Any = class_of(component.library, component.class_name)
        home = getattr(diffusers.pipelines, component.library, None)
        is_misnamed = home is not None and not hasattr(home, component.class_name)
        if own is not None and (is_misnamed or component.name in with_default):
            dtype = dtypes.get(component.name, dtypes["default"])
            lost[component.name] = _component(own, folder / component.folder, dtype, variant)
    return lost


def _component(kind: Any, folder: Path, dtype: torch.dtype, variant: str | None) -> Any:
    """A component of its own folder."""
    if not folder.is_dir():
        raise WeightsUnavailable(
            f"{folder.parent} has no folder {folder.name}, which its index names. Save that "
            "component there with its own `save_pretrained`; that of the pipeline can leave it out."
        )
    options: dict[str, Any] = {"local_files_only": True}
    load: Any = kind.from_pretrained
    if issubclass(kind, torch.nn.Module):
        own_variant = variant if _has_variant(folder, variant) else None
        options |= {"use_safetensors": True, "dtype": dtype, "variant": own_variant}
    return load(str(folder), **options)


def _folders_in(folder: Path) -> Collection[str]:
    return [path.name for path in folder.iterdir() if path.is_dir()]


def _has_variant(folder: Path, variant: str | None) -> bool:
    return any(f".{variant}" in path.name for path in folder.glob("*.safetensors*"))


def _by_component(dtype: str | Mapping[str, str]) -> dict[str, torch.dtype]:
    names = {"default": dtype} if isinstance(dtype, str) else {"default": "float32", **dtype}
    for name in names.values():
        if name not in _DTYPES:
            raise Misconfigured(f"dtype {name!r} is unknown. Use one of {', '.join(_DTYPES)}.")
    return {component: _DTYPES[name] for component, name in names.items()}


def _folder_of(
    weights: Weights, open_weights: OpenWeights | None, on_download: OnDownload | None
) -> contextlib.AbstractContextManager[Path]:
    path = Path(weights.source)
    if path.is_dir():
        return contextlib.nullcontext(path)
    if open_weights is not None:
        return open_weights(weights, on_download)
    raise WeightsUnavailable(
        f"The directory {weights.source} does not exist on this node. Put the pipeline there, or "
        "name a hub repository as owner/name with a revision."
    )


def _check(folder: Path, dtypes: Collection[str], replaced: Collection[str]) -> None:
    """``dtypes``: components for which a dtype is given, and ``default``. ``replaced``: components
    whose weights are not in the folder."""
    index = read_index(folder)
    name = index.get("_class_name")
    kind = pipeline_class(name) if isinstance(name, str) else None
    if kind is None:
        raise WeightsUnavailable(
            f"{folder} needs the pipeline {name!r}, which diffusers {diffusers.__version__} "
            "does not have. Code from a repository is not run."
        )
    entries = [*components(index)]
    names = sorted(entry.name for entry in entries)
    if unknown := sorted({*dtypes} - {"default", *names}):
        raise Misconfigured(
            f"A dtype is given for {', '.join(unknown)}, but {folder} has only the components "
            f"{', '.join(names)}."
        )
    if is_modular(kind):
        if adapter_files(index):
            raise WeightsUnavailable(
                f"{folder}: the modular {name} is not served with the part {IP_ADAPTER}. Name the "
                "pipeline's class without Modular as `weights.pipeline`, or leave out the part."
            )
        if several := [entry.name for entry in entries if entry.is_several]:
            raise WeightsUnavailable(
                f"{folder}: the modular {name} takes one model as its {several[0]}. Name the "
                "pipeline's class without Modular as `weights.pipeline`, or one part."
            )
        try:
            workflows(blocks_of(kind, names), names)
        except ValueError as error:
            raise WeightsUnavailable(f"{folder}: {name} {error}.") from error
    folders = _folders_in(folder)
    for component in entries:
        _check_class(folder, component)
        if component.name not in replaced:
            for model in component.models(folders):
                _check_weights(folder, model)


def read_index(folder: Path) -> dict[str, Any]:
    """Index of the pipeline in a folder. Raises ``WeightsUnavailable``."""
    name = next((candidate for candidate in INDEXES if (folder / candidate).is_file()), None)
    if name is None:
        raise WeightsUnavailable(
            f"{folder} is not a diffusers pipeline: it has no {INDEX}. A single file is the "
            "`checkpoint` of a pipeline that has its other components."
        )
    files = [f"{subfolder}/" for subfolder in _folders_in(folder)]
    try:
        return parse_index(name, (folder / name).read_bytes(), files)
    except ValueError as error:
        raise WeightsUnavailable(f"{folder / name} {error}") from error


def _check_class(folder: Path, component: Component) -> None:
    library, kind = component.library, class_of(component.library, component.class_name)
    if kind is None or (folder / component.folder / f"{library}.py").exists():
        raise WeightsUnavailable(
            f"{folder} needs {library}.{component.class_name} as its {component.name}, which "
            "neither diffusers nor transformers has. Code from a repository is not run."
        )


def _check_weights(folder: Path, component: Component) -> None:
    kind = class_of(component.library, component.class_name)
    if kind is None or not issubclass(kind, torch.nn.Module):
        return
    own = folder / component.folder
    where = own if own.is_dir() else folder
    if any(where.glob("*.safetensors")):
        return
    if any(next(where.glob(pattern), None) for pattern in _PICKLES):
        raise WeightsUnavailable(
            f"{where} has its weights only as a pickle, which can run code and is never loaded. "
            "Convert them: load the pipeline on a machine where you trust it and save it with "
            "safe_serialization=True."
        )
    raise WeightsUnavailable(f"{where} has no *.safetensors: the {component.name} is missing.")


def class_of(library: str, class_name: str) -> type | None:
    """Class of a component, by its entry in ``model_index.json``. None if neither diffusers nor
    transformers has it."""
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
    if kind is None:
        theirs = getattr(transformers, class_name, None)
        module = getattr(theirs, "__module__", "")
        kind = theirs if module.startswith(f"transformers.models.{library}.") else None
    return kind if isinstance(kind, type) else None


# Memory that weights will take, from the headers of their files, before any weights are read.

_LOADED = {"float32": 4, "float16": 2, "bfloat16": 2}


def weights_bytes(weights: Weights, dtypes: Mapping[str, str], select: SelectFiles) -> int:
    """Bytes of the pipeline in a folder, loaded in ``dtypes`` by component and ``default``.

    0 if the files do not say; loading them then reports the problem. Raises ``WeightsUnavailable``
    for a checkpoint that does not have its components.
    """
    folder = Path(weights.source)
    try:
        index = read_index(folder)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        selected = select(names, index, weights.variant, str(folder), weights.components)
        files = [file for file in selected if _has_weights(file)]
        folders = top_folders(names)
        of = {m.folder: e.name for e in components(index) for m in e.models(folders)}
        homes = [(file, file.partition("/")[0]) for file in files]
        of_files = sum(
            _bytes_in(folder / file, _size_in(of.get(home, home), dtypes)) for file, home in homes
        )
    except (OSError, ValueError, KeyError, TypeError, WeightsUnavailable, UnknownDtype):
        return 0
    if not weights.components:
        return of_files
    return of_files + sum(
        math.prod(tensor.shape) * (_size_in(component, dtypes) or tensor.dtype.itemsize)
        for component, tensors in open_checkpoint(weights, index).items()
        for tensor in tensors.values()
    )


def _size_in(component: str, dtypes: Mapping[str, str]) -> int:
    """Bytes of a loaded value of a component; 0 if the dtype is unknown."""
    dtype = dtypes.get(component, dtypes.get("default", ""))
    return _LOADED.get(dtype, 0)


def _has_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _bytes_in(file: Path, loaded: int) -> int:
    """``loaded``: bytes of a loaded value; 0: they stay as they are."""
    return sum(
        math.prod(tensor.shape) * loaded
        if loaded and tensor.dtype.is_floating_point
        else tensor.size
        for tensor in WeightFile(file).header().tensors.values()
    )
