"""Diffusers repository before it is served: its pipeline, sizes, licence, and settings."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml

from serve_app.catalog.source import WeightsSource
from serve_app.cli.inspection.control_nets import ControlNets
from serve_app.cli.inspection.pipeline_call import required_components
from serve_app.domain.checkpoint import SUFFIXES, Held, check_checkpoint, held_components
from serve_app.domain.endpoint import Weights, WeightsPart
from serve_app.domain.errors import Misconfigured, WeightsUnavailable
from serve_app.domain.lora import HubFile, parse_lora_path
from serve_app.domain.pipeline_index import (
    INDEX,
    IP_ADAPTER,
    adapter_files,
    components,
    folder_of,
    index_file,
    parse_index,
)
from serve_app.options.mistakes import validate
from serve_app.paths import expand_home
from weights.checkpoint_header import Tensors, read_tensors
from weights.folder import ListedFile, Listing
from weights.links import files_in, fingerprint
from weights.parts import config_of, repository_of, with_parts
from weights.selection import PICKLES, select
from weights.store import Store

SAFETENSORS = ".safetensors"
IMAGE_ENCODER = "image_encoder"
README = "README.md"

_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_PART = re.compile(r"([\w.-]+/[\w.-]+?)(?:/([\w./-]+?))?(?:@([\w./-]+))?")
_NO_ID = re.compile(r"[^\w.-]+")  # what the ids of endpoints do not have
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Repository:
    """Repository that was inspected."""

    weights: Mapping[str, Any]  # the key `weights` of an entry
    index: Mapping[str, Any]  # in the form of model_index.json
    sizes: Mapping[str, int]  # component → bytes of its weights
    is_here: bool  # the weights are on this machine
    read_text: Callable[[str], str | None]  # text of a small file; None: it cannot be read

    @property
    def pipeline(self) -> str:
        return str(self.index.get("_class_name", ""))

    @property
    def adapters(self) -> int:
        """Number of IP-Adapters that it is loaded with."""
        return len(adapter_files(self.index))

    @property
    def licence(self) -> str:
        """Licence by the front matter of the README; empty if it states none."""
        match = _FRONT_MATTER.match(self.read_text(README) or "")
        try:
            card = yaml.safe_load(match[1]) if match else None
        except (yaml.YAMLError, ValueError, RecursionError):
            return ""
        if not isinstance(card, dict):
            return ""
        facts = cast("Mapping[str, Any]", card)
        name = facts.get("license_name") or facts.get("license") or ""
        return name if isinstance(name, str) else ""

    @property
    def control_nets(self) -> ControlNets | None:
        """The ControlNets that run together in it; None: it has one, or none."""
        several = next(
            (component for component in components(self.index) if component.is_several), None
        )
        if several is None:
            return None
        models = several.models(self.sizes.keys())
        return ControlNets(several.class_name, [*(self.config(model.folder) for model in models)])

    def config(self, folder: str) -> Mapping[str, Any]:
        """Settings of the component in a folder; empty if they cannot be read."""
        try:
            document = json.loads(self.read_text(f"{folder}/config.json") or "{}")
        except (ValueError, RecursionError):
            return {}
        return cast("Mapping[str, Any]", document) if isinstance(document, dict) else {}


@dataclass(frozen=True, slots=True)
class _SingleFile:
    """Checkpoint that replaces components of a repository."""

    source: str  # in the entry
    tensors: Tensors
    is_here: bool

    def replaced_components(self, index: Mapping[str, Any]) -> Held:
        """Components that it replaces. ``WeightsUnavailable`` if they cannot be read."""
        dtypes = {name: facts.dtype for name, facts in self.tensors.items()}
        components = held_components(dtypes, index)
        if not components:
            raise WeightsUnavailable(
                f"{self.source} holds nothing that {index.get('_class_name')} has. Name the "
                "pipeline that it was made for with --weights."
            )
        return check_checkpoint(self.source, dtypes, index, components)

    def sizes(self, by_component: Held) -> Mapping[str, int]:
        return {
            component: sum(self.tensors[name].size for name in names)
            for component, names in by_component.items()
        }


def id_of(repository: str) -> str:
    """Endpoint id of a repository that is served under its own name: the name that it has at the
    hub, or ``local/`` with that of its folder. ``Misconfigured``: it is neither."""
    if (folder := _folder(repository)) is not None:
        return f"local/{_NO_ID.sub('-', folder.name).lower()}"
    return _parse_repository(repository)[0]


def _folder(source: str) -> Path | None:
    """Folder of this machine that is given; None: there is none."""
    try:
        folder = expand_home(source)
    except ValueError as error:
        raise Misconfigured(f"{error}.") from None
    return folder.resolve() if folder.is_dir() else None


def _parse_repository(source: str) -> tuple[str, str | None]:
    """Repository of the hub that is given, and its revision, if that is given."""
    _refuse_file(source)
    named = _HUB.fullmatch(source)
    if named is None or source.startswith((".", "~")):
        raise Misconfigured(
            f"There is no folder {source} on this machine. Name a folder with a diffusers "
            "pipeline, or a repository of the hub as owner/name@commit."
        )
    return named[1], named[2]


def _refuse_file(source: str) -> None:
    """Refuse a single file where a folder or a repository is expected."""
    if source.partition("@")[0].endswith(SUFFIXES):
        raise Misconfigured(
            f"{source} is a single file. Name it with --checkpoint, beside the --weights that it "
            "was made for."
        )


def inspect_repository(
    source: str,
    variant: str | None,
    store: Store,
    checkpoint: str | None = None,
    parts: Sequence[tuple[str, str]] = (),
    pipeline: str | None = None,
) -> Repository:
    """Inspect a folder of this machine, or ``owner/name@revision`` of the hub, with the
    ``checkpoint`` that replaces some of its components, and with ``parts``, components and their
    places, which the class ``pipeline`` takes.

    A branch or tag is resolved to its commit, and folders and files of this machine get a
    ``version``. ``Misconfigured`` and ``WeightsUnavailable`` say what is wrong.
    """
    file = None if checkpoint is None else _single_file(checkpoint, store)
    if (folder := _folder(source)) is not None:
        whole = _of_folder(folder, variant, file)
    else:
        whole = _of_hub(*_parse_repository(source), variant, store, file)
    repository = _with_parts(whole, store, parts, pipeline)
    try:
        checked = validate(WeightsSource, repository.weights, "weights")
    except ValueError as error:
        raise Misconfigured(f"{error}.") from None
    here = fingerprint(*checked.local_places)
    version = {"version": here} if here else {}
    return replace(repository, weights={**repository.weights, **version})


def _with_parts(
    whole: Repository, store: Store, parts: Sequence[tuple[str, str]], pipeline: str | None
) -> Repository:
    """``whole`` with components of other places."""
    if not parts and pipeline is None:
        return whole
    by_name: dict[str, list[Repository]] = {}
    for name, place in _single_parts(parts, pipeline):
        part = _adapter(place, store) if name == IP_ADAPTER else _part(name, place, store)
        by_name.setdefault(name, []).append(part)
    adapters = by_name.get(IP_ADAPTER, [])
    if pipeline is not None:
        own = required_components(str(whole.index.get("_class_name")))
        there = {component.name for component in components(whole.index)}
        _check_components(pipeline, own | there | by_name.keys())
    named = {} if pipeline is None else {"pipeline": pipeline}
    configs = {
        n: [repository.index for repository in own] for n, own in by_name.items() if n != IP_ADAPTER
    }
    files = [str(adapter.weights["file"]) for adapter in adapters]
    index = with_parts(whole.index, configs, pipeline or "", files)
    if adapters and not any(component.name == IMAGE_ENCODER for component in components(index)):
        raise Misconfigured(_no_encoder(adapters[0], store))
    folders = {
        folder_of(n, number): e for n, own in by_name.items() for number, e in enumerate(own)
    }
    replaced = {
        model.folder
        for component in components(whole.index)
        if component.name in by_name
        for model in component.models(whole.sizes.keys())
    }
    sizes = {name: size for name, size in whole.sizes.items() if name not in replaced}
    sizes |= {name: sum(repository.sizes.values()) for name, repository in folders.items()}

    def read(path: str) -> str | None:
        folder, _, inside = path.partition("/")
        return folders[folder].read_text(inside) if folder in folders else whole.read_text(path)

    written = {
        name: own[0].weights if len(own) == 1 else [repository.weights for repository in own]
        for name, own in by_name.items()
    }
    return Repository(
        {**whole.weights, **named, **({"parts": written} if written else {})},
        index,
        dict(sorted(sizes.items(), key=lambda item: -item[1])),
        whole.is_here and all(repository.is_here for repository in folders.values()),
        read,
    )


def _single_parts(
    parts: Sequence[tuple[str, str]], pipeline: str | None
) -> Iterator[tuple[str, str]]:
    """Parts by component. One that is a whole pipeline stands for its components, whose names in
    the class ``pipeline`` begin with the part's."""
    needed = frozenset[str]() if pipeline is None else required_components(pipeline)
    for name, place in parts:
        below = f"{name}_"
        inner = [] if name in needed else sorted(e for e in needed if e.startswith(below))
        if not inner:
            yield name, place
        for component in inner:
            source, at, revision = place.partition("@")
            yield component, f"{source}/{component.removeprefix(below)}{at}{revision}"


def _check_components(pipeline: str, there: Set[str]) -> None:
    """Refuse weights without components that the class ``pipeline`` needs."""
    if missing := sorted(required_components(pipeline) - there):
        raise Misconfigured(
            f"{pipeline} cannot be served: needs {', '.join(missing)}, which these weights do not "
            f"have. Add {' '.join(f'--part {component}=…' for component in missing)}."
        )


def _part(component: str, place: str, store: Store) -> Repository:
    """One component of another place; its settings are the index."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        _refuse_file(place)
    if folder.is_dir():
        part, read, is_here = WeightsPart(component, str(folder.resolve())), _reader(folder), True
        written = {"directory": part.source}
        files = {name: file.stat().st_size for name, file in files_in(folder).items()}
    elif (named := _PART.fullmatch(place)) is None:
        raise Misconfigured(
            f"There is no folder {place} on this machine, for {component}. Name a folder, or a "
            "repository of the hub as owner/name@commit, or a folder of one as "
            "owner/name/folder@commit."
        )
    else:
        revision = _commit(named[1], named[3], store)
        part = WeightsPart(component, named[1], revision, named[2] or "")
        weights = repository_of(part)
        listing, is_here = store.listing(weights), store.is_here(weights)
        prefix = f"{part.folder}/" if part.folder else ""
        files = {e.path.removeprefix(prefix): e.size for e in listing.select_files(weights)}
        written = {"hub": part.source, "revision": revision}
        written |= {"folder": part.folder} if part.folder else {}
        read = _reader_of_hub(weights, listing, store, prefix, is_here=is_here)
    sizes = {name: size for name, size in files.items() if name.endswith(SAFETENSORS)}
    return Repository(written, config_of(part, files, read), sizes, is_here, read)


def _adapter(place: str, store: Store) -> Repository:
    """The file of an IP-Adapter; its index is empty."""
    path = Path(place).expanduser()
    if place.endswith(PICKLES):
        raise Misconfigured(_of_pickle(place))
    if path.exists():
        folder, name = path.resolve().parent, path.name
        if path.is_dir():
            folder, name = path.resolve(), _only_file(place, [e.name for e in path.iterdir()])
        written = {"directory": str(folder), "file": name}
        sizes = {name: (folder / name).stat().st_size}
        return Repository(written, {}, sizes, is_here=True, read_text=_reader(folder))
    if (named := _PART.fullmatch(place)) is None:
        raise Misconfigured(
            f"There is no file {place} on this machine, for {IP_ADAPTER}. Name a file, or one of "
            "the hub as owner/name/file.safetensors@commit."
        )
    revision, file = _commit(named[1], named[3], store), named[2] or ""
    if not file.endswith(SAFETENSORS):
        listing = store.listing(Weights(named[1], revision))
        prefix = f"{file}/" if file else ""
        inside = [e.path.removeprefix(prefix) for e in listing.files if e.path.startswith(prefix)]
        file = prefix + _only_file(place, inside)
    weights = repository_of(WeightsPart(IP_ADAPTER, named[1], revision, file=file))
    listing, is_here = store.listing(weights), store.is_here(weights)
    (needed,) = listing.select_files(weights)
    written = {"hub": named[1], "revision": revision, "file": needed.path}
    read = _reader_of_hub(weights, listing, store, is_here=is_here)
    return Repository(written, {}, {needed.path: needed.size}, is_here, read)


def _only_file(place: str, inside: Collection[str]) -> str:
    """The one safetensors file in a folder. ``Misconfigured`` names those that are there."""
    beside = sorted(name for name in inside if "/" not in name)
    candidates = [name for name in beside if name.endswith(SAFETENSORS)]
    if len(candidates) == 1:
        return candidates[0]
    if pickles := [name for name in beside if not candidates and name.endswith(PICKLES)]:
        raise Misconfigured(_of_pickle(f"{place} ({', '.join(pickles)})"))
    shown = f"Its files are {', '.join(candidates)}" if candidates else "It has no safetensors"
    raise Misconfigured(
        f"{place} is a folder, and {IP_ADAPTER} is one file in it: name it, as "
        f"--part {IP_ADAPTER}=owner/name/folder/file.safetensors. {shown}."
    )


def _of_pickle(place: str) -> str:
    return (
        f"{place} is a pickle, which can run code and is never loaded. Convert it where you trust "
        "it (docs/how-to/add-a-model.md), and name the safetensors file."
    )


def _no_encoder(adapter: Repository, store: Store) -> str:
    """Sentence with the image encoders that lie beside the adapter."""
    place, revision = str(adapter.weights.get("hub", "")), adapter.weights.get("revision")
    if place:
        files = store.listing(Weights(place, revision)).files
        folders = {file.path.rpartition("/")[0] for file in files}
    else:
        place = str(adapter.weights["directory"])
        folders = {path.name for path in Path(place).iterdir() if path.is_dir()}
    at = "" if revision is None else f"@{revision}"
    beside = [
        f"{place}/{folder}{at}" for folder in sorted(folders) if folder.endswith(IMAGE_ENCODER)
    ]
    shown = f" Beside it: {', '.join(beside)}." if beside else ""
    return (
        f"{IP_ADAPTER} needs the image encoder that it was made with: add --part "
        f"{IMAGE_ENCODER}=owner/name/folder.{shown}"
    )


def _reader(folder: Path) -> Callable[[str], str | None]:
    """Reader of small files of a folder."""

    def read(path: str) -> str | None:
        try:
            return (folder / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    return read


def _reader_of_hub(
    weights: Weights, listing: Listing, store: Store, prefix: str = "", *, is_here: bool
) -> Callable[[str], str | None]:
    """Reader of small files of a repository, below ``prefix``: on this machine, or of the hub."""

    def read(path: str) -> str | None:
        path = prefix + path
        try:
            if is_here:
                with store.open(weights) as folder:
                    if (folder / path).is_file():
                        return (folder / path).read_text(encoding="utf-8")
            file = next((listed for listed in listing.files if listed.path == path), None)
            if file is None or store.offline:
                return None
            return store.make_hub().read(listing, file).decode(errors="replace")
        except (OSError, UnicodeDecodeError, WeightsUnavailable):
            return None

    return read


def _single_file(checkpoint: str, store: Store) -> _SingleFile:
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return _SingleFile(str(path.resolve()), read_tensors(path, checkpoint), is_here=True)
    try:
        source = parse_lora_path(checkpoint, SUFFIXES)
    except ValueError:
        source = None
    if not isinstance(source, HubFile) or source.file is None:
        raise Misconfigured(
            f"There is no file {checkpoint} on this machine. Name a checkpoint's file, or one of "
            "the hub as owner/name/file.safetensors@commit or owner/name/file.gguf@commit."
        )
    revision = _commit(source.repository, source.revision, store)
    weights = Weights(source.repository, revision, files=(source.file,))
    (file,) = store.plan(weights).files
    written = f"{source.repository}/{file.path}@{revision}"
    if store.is_here(weights):
        with store.open(weights) as folder:
            tensors = read_tensors(folder / file.path, written)
            return _SingleFile(written, tensors, is_here=True)
    listed = ListedFile(file.path, file.size, file.digest)
    tensors = store.make_hub().read_tensors(store.listing(weights), listed)
    return _SingleFile(written, tensors, is_here=False)


def _of_folder(folder: Path, variant: str | None, file: _SingleFile | None) -> Repository:
    read = _reader(folder)
    files = {name: file.stat().st_size for name, file in files_in(folder).items()}
    own = index_file(files)
    text = None if own is None else read(own)
    if own is None or text is None:
        raise Misconfigured(_no_pipeline(str(folder)))
    try:
        index = parse_index(own, text, files)
    except ValueError as error:
        raise Misconfigured(f"{folder / own} {error}") from error
    in_file = {} if file is None else file.replaced_components(index)
    needed = select(list(files), index, variant, str(folder), in_file)
    weights = _weights_entry({"directory": str(folder)}, variant, file, in_file)
    sizes = _sizes({path: size for path, size in files.items() if path in needed}, file, in_file)
    return Repository(weights, index, sizes, file is None or file.is_here, read)


def _commit(name: str, revision: str | None, store: Store) -> str:
    """Commit of a repository: of a branch as the hub says, or offline the only one that is here."""
    if revision is None:
        return store.commit_of(name, or_only_here=True)
    return store.commit_of(name, revision)


def _of_hub(
    name: str, revision: str | None, variant: str | None, store: Store, file: _SingleFile | None
) -> Repository:
    revision = _commit(name, revision, store)
    listing = store.listing(Weights(name, revision, variant=variant))
    if listing.index is None:
        raise Misconfigured(_no_pipeline(f"{name}@{revision}"))
    in_file = {} if file is None else file.replaced_components(listing.index)
    weights = Weights(name, revision, variant=variant, components=tuple(in_file))
    is_here = store.is_here(weights)
    needed = listing.select_files(weights)
    sizes = _sizes({listed.path: listed.size for listed in needed}, file, in_file)
    written = _weights_entry({"hub": name, "revision": revision}, variant, file, in_file)
    all_here = is_here and (file is None or file.is_here)
    read = _reader_of_hub(weights, listing, store, is_here=is_here)
    return Repository(written, listing.index, sizes, all_here, read)


def _weights_entry(
    weights: dict[str, Any], variant: str | None, file: _SingleFile | None, by_component: Held
) -> Mapping[str, Any]:
    """The key ``weights`` of an entry."""
    weights |= {} if variant is None else {"variant": variant}
    return weights | (
        {} if file is None else {"checkpoint": file.source, "components": [*by_component]}
    )


def _sizes(
    files: Mapping[str, int], checkpoint: _SingleFile | None, by_component: Held
) -> Mapping[str, int]:
    """Bytes of the weights by component, largest first."""
    sizes: defaultdict[str, int] = defaultdict(int)
    sizes |= {} if checkpoint is None else checkpoint.sizes(by_component)
    for path, size in files.items():
        if path.endswith(SAFETENSORS):
            sizes[path.split("/")[0]] += size
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _no_pipeline(where: str) -> str:
    return (
        f"{where} has no {INDEX}, so it is not a diffusers pipeline. A single file is named with "
        "--checkpoint, beside the --weights that it was made for. LoRAs need no entry: requests "
        "name them (docs/how-to/use-loras.md)."
    )
