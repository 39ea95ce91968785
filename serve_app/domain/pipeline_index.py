"""Index of a pipeline's repository: its class, and the class and folder of each component.

A whole pipeline of diffusers has ``model_index.json``, a modular one ``modular_model_index.json``,
which may name other repositories for components. Both are read to the form of the first.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
INDEXES = (INDEX, MODULAR_INDEX)
"""Names of the file, in the order in which they are looked for."""

ELSEWHERE = "_elsewhere"
"""Key of an index for the components that are not in its repository: name → where they are."""

IP_ADAPTER = "ip_adapter"
"""Name of the part that is no component: layers that are added to those of the denoiser."""

ADAPTER_FILE = "_ip_adapter"
"""Key of an index for the path of an IP-Adapter's file in the pipeline's folder."""


@dataclass(frozen=True, slots=True)
class Component:
    """Component of a pipeline, in the repository of its index."""

    name: str
    library: str
    class_name: str
    folder: str


def index_file(paths: Collection[str]) -> str | None:
    """Path of the index among those of a repository's files; None: it is not a pipeline."""
    return next((each for each in INDEXES if each in paths), None)


def parse_index(name: str, text: str | bytes, paths: Collection[str]) -> dict[str, Any]:
    """The index of that ``name`` in a repository with the files ``paths``. ``ValueError`` says what
    is wrong with it."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON: {error}.") from error
    if not isinstance(given, dict):
        raise ValueError("should be a JSON object.")  # noqa: TRY004  a value of the file
    index = cast("dict[str, Any]", given)
    return index if name == INDEX else _whole(index, paths)


def component_class(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Library and class of a component by its settings; None if they do not say it."""
    match config:
        case {"_class_name": str(name)}:
            return "diffusers", name
        case {"architectures": [str(name), *_]}:
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


def adapter_file(index: Mapping[str, Any]) -> str | None:
    """Path of the IP-Adapter's file in the pipeline's folder; None: it has none."""
    given = index.get(ADAPTER_FILE)
    return given if isinstance(given, str) else None


def _whole(index: Mapping[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """The index of a modular pipeline in the form of a whole one."""
    folders = {each.partition("/")[0] for each in paths if "/" in each}
    found: dict[str, Any] = {}
    elsewhere: dict[str, str] = {}
    for name, value in index.items():
        match value:
            case [library, kind, {**spec}]:
                stated = library, kind
                if None in stated:
                    stated = spec.get("type_hint") or (None, None)
                folder = str(spec.get("subfolder") or name)
                if folder in folders and None not in stated:
                    found[name] = [*stated] if folder == name else [*stated, folder]
                else:
                    elsewhere[name] = str(spec.get("pretrained_model_name_or_path") or "")
            case _:
                found[name] = value
    return found | ({ELSEWHERE: elsewhere} if elsewhere else {})
