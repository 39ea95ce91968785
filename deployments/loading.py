"""A family's pipeline, from weights that are brought here first if need be."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from deployments.family import Family
from serve_app.domain.endpoint import Endpoint
from weights.store import Store, is_of_hub, repositories_of


def load(
    store: Store,
    family: Family,
    endpoint: Endpoint,
    device: str,
    on_download: Callable[[int, int], None] | None = None,
) -> Any:
    """What ``Family.load`` gives, for weights that lie in a directory by then. They are not evicted
    meanwhile. ``on_download`` gets bytes done and bytes in all, on another thread.

    ``WeightsUnavailable`` in a sentence. Slow: for the loader's thread.
    """
    with ExitStack() as opened:
        folders = {
            each: opened.enter_context(store.open(each, on_download))
            for each in repositories_of(endpoint)
        }
        weights = endpoint.weights
        if is_of_hub(weights):
            local = replace(weights, source=str(folders[weights]), revision=None)
            endpoint = replace(endpoint, weights=local)
        return family.load(endpoint, device)
