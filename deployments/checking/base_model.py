"""The base model of weights that are checked: its files, its tensors, and its modules without
values.

Only configurations and headers are read, so a base of many gigabytes need not be on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from serve_app.domain.endpoint import Weights
from serve_app.domain.errors import WeightsUnavailable
from serve_app.domain.pipeline_index import INDEX, INDEXES, components, index_file, parse_index
from serve_app.domain.safetensors import TensorFacts, read_header
from weights.folder import SHA256_DIGITS, ListedFile, RepositoryFolder, digest_of
from weights.hub import Hub
from weights.selection import select

SAFETENSORS = ".safetensors"


class BaseFiles:
    """Files of the base: in a directory, in the store of this node, or on the hub."""

    def __init__(self, weights: Weights, store: Path, hub: Hub | None) -> None:
        """``store``: directory of the node's weights. ``hub``: None if downloads are disabled."""
        self._weights = weights
        self._hub = hub
        self._folder: Path | None = Path(weights.source)
        self._files: dict[str, ListedFile] = {}
        self._digests: dict[str, frozenset[str]] = {}
        if weights.revision is not None:
            repository = RepositoryFolder(store, weights.source)
            snapshot = repository.snapshot(weights.revision)
            there = any((snapshot / index).exists() for index in INDEXES)
            self._folder = snapshot if there else None
            listing = repository.listing(weights.revision)
            if listing is None and hub is not None:
                listing = hub.listing(weights.source, weights.revision)
            self._listing = listing
            if listing is not None:
                self._files = {file.path: file for file in listing.files}
        if self._folder is not None and not self._files:
            self._files = {
                path.relative_to(self._folder).as_posix(): ListedFile(
                    path.relative_to(self._folder).as_posix(), path.stat().st_size, ""
                )
                for path in self._folder.rglob("*")
                if path.is_file()
            }
        if not self._files:
            raise WeightsUnavailable(
                "The base's files are not on this machine and downloads are disabled, so nothing "
                "can be compared with them. Ask the operator to load the base once."
            )
        self.index = self._index()
        self._selected = select([*self._files], self.index, weights.variant, weights.source)

    def _index(self) -> Mapping[str, Any]:
        own = index_file(self._files) or INDEX
        try:
            return parse_index(own, self._read(own), self._files)
        except ValueError as error:
            raise WeightsUnavailable(f"{own} of the base {error}") from error

    def libraries(self) -> Mapping[str, str]:
        """Library of each component."""
        return {component.name: component.library for component in components(self.index)}

    def weights_of(self, component: str) -> Sequence[str]:
        """Paths of the component's weights."""
        folder = next((e.folder for e in components(self.index) if e.name == component), component)
        return sorted(
            path
            for path in self._selected
            if path.startswith(f"{folder}/") and path.endswith(SAFETENSORS)
        )

    def json(self, path: str) -> Mapping[str, Any]:
        """A small JSON file. ``WeightsUnavailable`` if the base has none of this name."""
        try:
            return json.loads(self._read(path))
        except (ValueError, RecursionError) as error:
            raise WeightsUnavailable(f"{path} of the base is not JSON: {error}") from error

    def has(self, path: str) -> bool:
        return path in self._files

    def digests(self, component: str) -> frozenset[str]:
        """SHA-256 of each file of the component's weights."""
        if component not in self._digests:
            self._digests[component] = self._digests_of(component)
        return self._digests[component]

    def _digests_of(self, component: str) -> frozenset[str]:
        digests: set[str] = set()
        for path in self.weights_of(component):
            listed = self._files[path].digest
            if len(listed) == SHA256_DIGITS:
                digests.add(listed)
            elif self._folder is not None:
                digests.add(digest_of(self._folder / path, "0" * SHA256_DIGITS))
        return frozenset(digests)

    def tensors(self, component: str) -> Mapping[str, TensorFacts]:
        """Tensors of the component by name, from the headers of its files."""
        facts: dict[str, TensorFacts] = {}
        for path in self.weights_of(component):
            facts.update(self._header(path))
        return facts

    def _header(self, path: str) -> Mapping[str, TensorFacts]:
        if self._folder is not None and (self._folder / path).exists():
            return read_header(self._folder / path, path).tensors
        if self._hub is None:
            raise WeightsUnavailable(f"{path} of the base is not on this machine.")
        api = HfApi(endpoint=self._hub.endpoint, token=self._hub.token() or False)
        metadata = api.parse_safetensors_file_metadata(
            self._weights.source, path, revision=self._weights.revision
        )
        return {
            name: TensorFacts(str(tensor.dtype), tuple(tensor.shape))
            for name, tensor in metadata.tensors.items()
        }

    def _read(self, path: str) -> bytes:
        if self._folder is not None and (self._folder / path).is_file():
            return (self._folder / path).read_bytes()
        file = self._files.get(path)
        if file is None or self._hub is None or self._listing is None:
            raise WeightsUnavailable(f"The base has no {path} on this machine.")
        return self._hub.read(self._listing, file)


def skeleton(base: BaseFiles) -> Any:
    """Pipeline of the base's class with its modules, which have shapes and no values.

    It takes no memory for weights. Only classes of diffusers and transformers are built.
    """
    import torch  # noqa: PLC0415  # seconds

    from deployments.engine.loading.loader import class_of  # noqa: PLC0415
    from deployments.engine.pipelines import pipeline_class  # noqa: PLC0415

    kind = pipeline_class(str(base.index.get("_class_name")))
    if kind is None:
        raise WeightsUnavailable(f"The base has an unknown pipeline: {base.index['_class_name']}.")
    pipeline: Any = object.__new__(kind)
    for entry in components(base.index):
        component = class_of(entry.library, entry.class_name)
        config = f"{entry.folder}/config.json"
        if component is None or not issubclass(component, torch.nn.Module) or not base.has(config):
            continue
        with torch.device("meta"):
            pipeline.__dict__[entry.name] = _module(component, base.json(config))
    return pipeline


def _module(kind: Any, config: Mapping[str, Any]) -> Any:
    if hasattr(kind, "config_class") and kind.config_class is not None:  # of transformers
        return kind(kind.config_class.from_dict(dict(config)))
    return kind.from_config(dict(config))
