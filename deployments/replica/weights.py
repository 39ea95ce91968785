"""Weights of an endpoint: their download, and the load of a pipeline from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.families.base import Family
from deployments.families.image_io import own_dtypes
from deployments.families.options import own_adapters
from serve_app.domain.endpoint import Endpoint, Weights
from weights.parts import repository_of
from weights.registered import registered_of, replaced_of
from weights.selection import select
from weights.store import Store, checkpoint_of, lora_of, repositories_of

if TYPE_CHECKING:  # it imports torch
    from deployments.engine.lora.format import Lora


def fetch(store: Store, endpoint: Endpoint, on_download: Callable[[int, int], None]) -> None:
    """Download the weights. If they are evicted before they are loaded, ``load`` downloads them
    again. Raises the errors of ``load``. Slow; needs almost no memory."""
    for repository in repositories_of(endpoint):
        with store.open(repository, on_download):
            pass
    for digest in registered_of(endpoint):
        store.registered_files().fetch(digest, on_download)


def is_here(store: Store, endpoint: Endpoint) -> bool:
    """True if ``fetch`` has nothing to do. Reads the disk."""
    files = store.registered_files()
    return all(map(store.is_here, repositories_of(endpoint))) and all(
        files.find(digest) is not None for digest in registered_of(endpoint)
    )


def adapters(store: Store, endpoint: Endpoint, input: Mapping[str, Any]) -> list[Lora]:
    """The endpoint's own adapters for ``input``; they are downloaded if needed. Slow then.

    Raises the errors of ``load``.
    """
    from deployments.engine.lora.format import Lora  # noqa: PLC0415

    loras: list[Lora] = []
    for adapter in own_adapters(endpoint):
        if not adapter.is_for(endpoint, input):
            continue
        if adapter.registered:
            file = store.registered_files().fetch(adapter.registered)
            loras.append(Lora(file, adapter.scale, adapter.denoiser, is_own=True))
            continue
        folder = Path(adapter.directory)
        if adapter.repository is not None:
            with store.open(adapter.repository) as opened:  # not held: it is read soon, into memory
                folder = opened
        loras.append(Lora(folder / adapter.file, adapter.scale, adapter.denoiser, is_own=True))
    return loras


def load(
    store: Store,
    family: Family,
    endpoint: Endpoint,
    device: str,
    on_download: Callable[[int, int], None] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> Any:
    """Load a pipeline with ``Family.load``. Hub weights are downloaded to a directory first and not
    evicted during the load. ``on_download`` receives the bytes done and the total, on another
    thread; ``on_found`` the memory in bytes that the weights will take, before they are read.

    Raises ``WeightsUnavailable`` with a message for the user. Slow: call it on the loader's thread.
    """
    with ExitStack() as opened:
        folders = {
            repository: opened.enter_context(store.open(repository, on_download))
            for repository in repositories_of(endpoint)
            # Adapters are read when a generation needs them.
            if not repository.files or repository == checkpoint_of(endpoint.weights)
        }
        resolved = _with_parts(store, _with_folders(endpoint, folders), folders)
        if replaced := replaced_of(endpoint):
            source = store.registered_files().compose_folder(
                Path(resolved.weights.source), replaced
            )
            components = tuple(set(resolved.weights.components) - replaced.keys())
            weights = replace(resolved.weights, source=str(source), components=components)
            resolved = replace(resolved, weights=weights)
        if on_found is not None and Path(resolved.weights.source).is_dir():
            on_found(_bytes(resolved, device))
        return family.load(resolved, device)


def _with_parts(store: Store, endpoint: Endpoint, folders: Mapping[Weights, Path]) -> Endpoint:
    """Endpoint with one directory that has the parts of its weights, and the class for them."""
    weights = endpoint.weights
    if not (weights.parts or weights.pipeline):
        return endpoint
    places = {part: folders.get(repository_of(part), Path(part.source)) for part in weights.parts}
    source = str(store.compose_folder(Path(weights.source), weights, places))
    return replace(endpoint, weights=replace(weights, source=source, parts=(), pipeline=""))


def _bytes(endpoint: Endpoint, device: str) -> int:
    from deployments.engine.loading.loader import weights_bytes  # noqa: PLC0415

    return weights_bytes(endpoint.weights, own_dtypes(endpoint, device, "bfloat16"), select)


def _with_folders(endpoint: Endpoint, folders: Mapping[Weights, Path]) -> Endpoint:
    """Endpoint with directories in place of repositories."""
    weights, options = endpoint.weights, dict(endpoint.options)
    if (checkpoint := checkpoint_of(weights)) is not None:
        file = str(folders[checkpoint] / checkpoint.files[0])
        weights = replace(weights, checkpoint=file)
    if endpoint.weights in folders:
        weights = replace(weights, source=str(folders[endpoint.weights]), revision=None)
    if (lora := lora_of(endpoint)) is not None:
        lora_options = {k: v for k, v in options["adapter"].items() if k not in ("hub", "revision")}
        options["adapter"] = {**lora_options, "directory": str(folders[lora])}
    return replace(endpoint, weights=weights, options=options)
