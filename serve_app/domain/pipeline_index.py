"""Index of a pipeline's repository: its class, and the class and folder of each component.

A whole pipeline of diffusers has ``model_index.json``, a modular one ``modular_model_index.json``,
which may name other repositories for components. Both are read to the form of the first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
from typing import Any, cast

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
INDEXES = (INDEX, MODULAR_INDEX)
"""Names of the file, in the order in which they are looked for."""

ELSEWHERE = "_elsewhere"
"""Key of an index for the components that are not in its repository: name → where they are."""

IP_ADAPTER = "ip_adapter"
"""Name of the part that is no component: layers that are added to those of the denoiser."""

ADAPTER_FILES = "_ip_adapter"
"""Key of an index for the paths of the files of IP-Adapters in the pipeline's folder."""

TOGETHER: Mapping[str, str] = {
    "ControlNetModel": "MultiControlNetModel",
    "ControlNetUnionModel": "MultiControlNetUnionModel",
    "FluxControlNetModel": "FluxMultiControlNetModel",
    "HunyuanDiT2DControlNetModel": "HunyuanDiT2DMultiControlNetModel",
    "SD3ControlNetModel": "SD3MultiControlNetModel",
}
"""Class of a ControlNet → class of the component that runs several. That of Qwen-Image is not among
them: it gives several images to one."""

_ALONE = {together: alone for alone, together in TOGETHER.items()}


@dataclass(frozen=True, slots=True)
class Component:
    """Component of a pipeline, in the repository of its index."""

    name: str
    library: str
    class_name: str
    folder: str

    @property
    def is_several(self) -> bool:
        """True for ControlNets that run together, each of which has a folder."""
        return self.class_name in _ALONE

    def models(self, folders: Collection[str]) -> Sequence[Component]:
        """Models of the component in a repository with these ``folders``, each with its class and
        its folder, as diffusers saves them."""
        if not self.is_several:
            return [self]
        more = takewhile(folders.__contains__, (folder_of(self.folder, n) for n in count(1)))
        alone = replace(self, class_name=_ALONE[self.class_name])
        return [alone, *(replace(alone, folder=folder) for folder in more)]


def folder_of(component: str, number: int) -> str:
    """Folder of one of the models that are a component together."""
    return f"{component}_{number}" if number else component


def index_file(paths: Collection[str]) -> str | None:
    """Path of the index among those of a repository's files; None: it is not a pipeline."""
    return next((name for name in INDEXES if name in paths), None)


def parse_index(name: str, text: str | bytes, paths: Collection[str]) -> dict[str, Any]:
    """The index of that ``name`` in a repository with the files ``paths``. ``ValueError`` says what
    is wrong with it."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise ValueError("should be a JSON object.")  # noqa: TRY004  a value of the file
    index = cast("dict[str, Any]", document)
    return index if name == INDEX else _convert_modular(index, paths)


def component_class(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Library and class of a component by its settings; None if they do not say it."""
    match config:
        case {"_class_name": str(name)}:
            return "diffusers", name
        case (
            {"architectures": [str(name), *_]}
            | {"image_processor_type": str(name)}
            | {"tokenizer_class": str(name)}
        ):
            return "transformers", name
        case _:
            return None


def components(index: Mapping[str, Any]) -> Iterator[Component]:
    """Components that the pipeline has, without settings and without absent optional ones."""
    for name, value in index.items():
        match value:
            case [str(library), str(kind), *folder] if not name.startswith("_"):
                yield Component(name, library, kind, str(folder[0]) if folder else name)
            case _:
                continue


def top_folders(paths: Collection[str]) -> frozenset[str]:
    """Folders of a repository with these files, without those inside others."""
    return frozenset(path.partition("/")[0] for path in paths if "/" in path)


def adapter_files(index: Mapping[str, Any]) -> Sequence[str]:
    """Paths of the files of IP-Adapters in the pipeline's folder, in the order of the parts."""
    match index.get(ADAPTER_FILES):
        case str(path):  # of a folder that an earlier version has made
            return [path]
        case [*paths]:
            return [str(path) for path in paths]
        case _:
            return []


def _convert_modular(index: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """The index of a modular pipeline in the form of a whole one."""
    folders = top_folders(paths)
    entries: dict[str, Any] = {}
    elsewhere: dict[str, str] = {}
    for name, value in index.items():
        match value:
            case [library, kind, {**spec}]:
                stated = library, kind
                if None in stated:
                    stated = spec.get("type_hint") or (None, None)
                folder = str(spec.get("subfolder") or name)
                if folder in folders and None not in stated:
                    entries[name] = [*stated] if folder == name else [*stated, folder]
                else:
                    elsewhere[name] = str(spec.get("pretrained_model_name_or_path") or "")
            case _:
                entries[name] = value
    return entries | ({ELSEWHERE: elsewhere} if elsewhere else {})
