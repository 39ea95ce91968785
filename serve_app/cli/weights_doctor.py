"""The part of ``darkroom doctor`` that is about real weights."""

from __future__ import annotations

import os
from collections.abc import Callable

from serve_app.cli.downloads import chosen_endpoints, downloads
from serve_app.domain.errors import Misconfigured
from serve_app.settings import Config
from weights import disk
from weights.hub import Hub
from weights.store import Store


def checks(config: Config) -> list[tuple[str, Callable[[], str]]]:
    """None where demo models are served: they come along."""
    if config.serves_demo:
        return []
    store = Store(config.weights_store())
    return [
        ("weights", lambda: _directory(store)),
        ("hub", lambda: _hub(store)),
        ("downloads", lambda: _downloads(config, store)),
    ]


def _directory(store: Store) -> str:
    there = store.directory
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise Misconfigured(
            f"The directory of the weights, {store.directory}, cannot be written: nothing is "
            "downloaded to it. Change its owner, or choose another (DARKROOM_WEIGHTS_DIR)."
        )
    return f"{store.directory}, {disk.gigabytes(disk.free_bytes(there))} free"


def _hub(store: Store) -> str:
    if store.offline:
        return "not asked: DARKROOM_OFFLINE or HF_HUB_OFFLINE is set"
    hub = Hub(tries=1)
    account = hub.account()
    if account is None:
        return f"{hub.endpoint} answers; no HF_TOKEN is set, which gated repositories need"
    return f"{hub.endpoint} answers, and HF_TOKEN is that of {account}"


def _downloads(config: Config, store: Store) -> str:
    found = downloads(store, chosen_endpoints(config, ()))
    troubles = [each.trouble for each in found if each.plan is None]
    if troubles:
        raise Misconfigured(" ".join(troubles))
    missing = sum(each.missing_bytes for each in found)
    disk.check_room(store.directory, "All of it", missing)
    if not missing:
        return "everything is here"
    return f"{disk.gigabytes(missing)} are to come; `darkroom models pull` fetches them now"
