"""Components of a pipeline that come from other repositories, such as a ControlNet.

The pipeline and its parts become one folder of links, which is loaded as any other:

    .darkroom-composed/<digest>/…
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from serve_app.domain.endpoint import Weights, WeightsPart
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import (
    ADAPTER_FILES,
    INDEX,
    TOGETHER,
    component_class,
    components,
    folder_of,
    index_file,
    parse_index,
    top_folders,
)
from weights import eviction
from weights.links import files_in, folder_for, is_whole, write_folder

FOLDER = ".darkroom-composed"
CONFIGS = (
    *("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer_config.json"),
)
"""Files that name the class of a component, in the order in which they are looked for."""

VISION = {
    ("image_encoder", "CLIPModel"): "CLIPVisionModelWithProjection",
    ("image_encoder", "SiglipModel"): "SiglipVisionModel",
}
"""Component and class of a whole model → the class of the half that looks at images."""


def repository_of(part: WeightsPart) -> Weights:
    """Repository, or directory, of a part."""
    if part.file:
        return Weights(part.source, part.revision, files=(part.file,))
    return Weights(part.source, part.revision, folder=part.folder)


def compose_folder(
    directory: Path, base: Path, weights: Weights, places: Mapping[WeightsPart, Path]
) -> Path:
    """Folder with the files of ``base`` and those of the parts of ``weights``, in a store's
    ``directory``. ``places``: the folder of each part's repository. ``WeightsUnavailable`` says
    what a part lacks."""
    part_places = [(part, places[part] / part.folder) for part in weights.parts]
    identity = [str(base.resolve()), weights.pipeline, weights.version]
    identity += [f"{part.identity} {place.resolve()}" for part, place in part_places]
    folder = folder_for(directory / FOLDER, json.dumps(identity))
    if is_whole(folder):
        return folder
    names = {part.component for part in weights.parts}
    links = {**files_in(base)}
    own = index_file(links)
    if own is None:
        raise WeightsUnavailable(f"{base} is not a diffusers pipeline: it has no {INDEX}.")
    try:
        index = parse_index(own, links.pop(own).read_bytes(), links)
    except ValueError as error:
        raise WeightsUnavailable(f"{base / own} {error}") from error
    replaced = names | {
        model.folder
        for component in components(index)
        if component.name in names
        for model in component.models(top_folders(links))
    }
    links = {path: link for path, link in links.items() if path.partition("/")[0] not in replaced}
    configs: dict[str, list[Mapping[str, Any]]] = {}
    adapters: list[str] = []
    for part, place in part_places:
        if part.file:
            inside = folder_of(part.component, len(adapters))
            adapters.append(f"{inside}/{PurePosixPath(part.file).name}")
            links[adapters[-1]] = _file_of(part, place)
            continue
        files = files_in(place)
        known = configs.setdefault(part.component, [])
        inside = folder_of(part.component, len(known))
        links |= {f"{inside}/{path}": file for path, file in files.items()}
        known.append(config_of(part, files, _reader(place)))
    text = json.dumps(with_parts(index, configs, weights.pipeline, adapters), indent=1)
    try:
        write_folder(folder, links, {INDEX: text})
    except OSError as error:
        raise eviction.explain(error, directory, base.name) from error
    return folder


def _file_of(part: WeightsPart, place: Path) -> Path:
    file = place / part.file
    if not file.is_file():
        raise WeightsUnavailable(f"There is no file {part.place}, for {part.component}.")
    return file


def _reader(folder: Path) -> Callable[[str], str]:
    return lambda name: (folder / name).read_text(encoding="utf-8")


def config_of(
    part: WeightsPart, names: Collection[str], read: Callable[[str], str | None]
) -> Mapping[str, Any]:
    """Settings of a part, which name its class. ``names``: of its files; ``read``: text of one, or
    None if it cannot be read. ``WeightsUnavailable`` if it has none."""
    for name in CONFIGS:
        if name in names:
            try:
                config = json.loads(read(name) or "{}")
            except (ValueError, RecursionError) as error:
                raise WeightsUnavailable(f"{name} of {part.place} is not JSON: {error}") from error
            if isinstance(config, dict) and component_class(config) is not None:
                return config
    raise WeightsUnavailable(
        f"{part.place} does not say what it is: it has no {CONFIGS[0]} with `_class_name` or "
        "`architectures`. Name the folder of the component, as owner/name/folder."
    )


def with_parts(
    index: Mapping[str, Any],
    configs: Mapping[str, Sequence[Mapping[str, Any]]],
    pipeline: str,
    adapters: Sequence[str] = (),
) -> dict[str, Any]:
    """The index with other components. ``configs``: the settings of the parts of each;
    ``pipeline``: the class that they make, if it is another; ``adapters``: paths of the files of
    IP-Adapters. ``WeightsUnavailable`` for parts that do not run together."""
    more = {name: _class_of(name, parts) for name, parts in configs.items()}
    named = {"_class_name": pipeline} if pipeline else {}
    return {**index, **more, **named, **({ADAPTER_FILES: [*adapters]} if adapters else {})}


def _class_of(component: str, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Library and class of a component that is made of parts with these settings."""
    classes = [*dict.fromkeys(filter(None, map(component_class, parts)))]
    if len(classes) > 1:
        raise WeightsUnavailable(
            f"The parts of {component} are of the classes {', '.join(name for _, name in classes)},"
            " which do not run together. Name parts of one class."
        )
    ((library, name),) = classes
    if len(parts) == 1:
        return [library, VISION.get((component, name), name)]
    if name not in TOGETHER:
        raise WeightsUnavailable(
            f"{component} has {len(parts)} parts, and diffusers takes one {name}. Name one part; "
            f"what runs together is {', '.join(TOGETHER)}."
        )
    return [library, TOGETHER[name]]
