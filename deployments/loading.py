"""A family's pipeline, from weights that are brought here first if need be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.family import Family
from deployments.picture_output import own_dtype
from serve_app.domain.endpoint import Endpoint, Weights
from weights.store import Store, adapter_of, repositories_of


def fetch(store: Store, endpoint: Endpoint, on_download: Callable[[int, int], None]) -> None:
    """Bring the weights here. Should they be evicted before they are loaded, ``load`` brings them.
    Errors as there. Slow, and takes no memory to speak of."""
    for each in repositories_of(endpoint):
        with store.open(each, on_download):
            pass


def is_here(store: Store, endpoint: Endpoint) -> bool:
    """Whether ``fetch`` has nothing to do. Looks at the disk."""
    return all(map(store.is_here, repositories_of(endpoint)))


def load(
    store: Store,
    family: Family,
    endpoint: Endpoint,
    device: str,
    on_download: Callable[[int, int], None] | None = None,
    on_found: Callable[[int], None] | None = None,
) -> Any:
    """What ``Family.load`` gives, for weights that lie in a directory by then. They are not evicted
    meanwhile. ``on_download`` gets bytes done and bytes in all, on another thread; ``on_found`` the
    bytes that they will take in memory, before they are read.

    ``WeightsUnavailable`` in a sentence. Slow: for the loader's thread.
    """
    with ExitStack() as opened:
        folders = {
            each: opened.enter_context(store.open(each, on_download))
            for each in repositories_of(endpoint)
        }
        found = _with_folders(endpoint, folders)
        if on_found is not None and Path(found.weights.source).is_dir():
            on_found(_bytes(found, device))
        return family.load(found, device)


def _bytes(endpoint: Endpoint, device: str) -> int:
    from deployments.engine.weight_files import bytes_to_load  # noqa: PLC0415

    weights, dtype = endpoint.weights, own_dtype(endpoint, device, "bfloat16")
    return bytes_to_load(Path(weights.source), weights.variant, dtype)


def _with_folders(endpoint: Endpoint, folders: Mapping[Weights, Path]) -> Endpoint:
    """The endpoint with directories in place of repositories."""
    weights, options = endpoint.weights, dict(endpoint.options)
    if weights in folders:
        weights = replace(weights, source=str(folders[weights]), revision=None)
    if (adapter := adapter_of(endpoint)) is not None:
        given = {k: v for k, v in options["adapter"].items() if k not in ("hub", "revision")}
        options["adapter"] = {**given, "directory": str(folders[adapter])}
    return replace(endpoint, weights=weights, options=options)
