"""What ``darkroom serve`` says about weights that are not here yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from serve_app.cli import gpu
from serve_app.cli.downloads import Download, chosen_endpoints, downloads
from serve_app.settings import Config
from weights import disk
from weights.hub import Hub
from weights.store import Store

ANSWER_S = 3.0  # for one question to the hub
PATIENCE_S = 4.0  # for all of them: the start is not held up for longer
SLOW = (
    "Which weights are to be downloaded is not known: the hub does not answer. "
    "`darkroom models pull` asks it again."
)


def say(config: Config, out: Callable[[str], None]) -> None:
    """Name every repository that the first request would have to wait for. Nothing when all is
    here, or demo models are served."""
    if config.serves_demo:
        return
    store = Store(config.weights_store(), lambda: Hub(answer_s=ANSWER_S, tries=1))
    endpoints = chosen_endpoints(config, ())
    found: list[Download] = []
    # A mirror that hangs, or a name that is not resolved, may take longer than any time limit.
    asking = threading.Thread(
        target=lambda: found.extend(downloads(store, endpoints)), daemon=True, name="weights notice"
    )
    asking.start()
    asking.join(PATIENCE_S)
    if asking.is_alive():
        out(SLOW)
        return
    for line in lines(store, found, gpu.least_memory_bytes()):
        out(line)


def lines(store: Store, found: Sequence[Download], memory: int | None) -> Iterator[str]:
    waiting = [each for each in found if each.plan is None or each.plan.missing]
    if not waiting:
        return
    yield "\nThese weights are not here; the first request that needs them waits for the download:"
    for each in waiting:
        for line in each.lines(memory):
            yield f"    {line}"
    missing = sum(each.missing_bytes for each in waiting)
    yield (
        f"In all {disk.gigabytes(missing)} to {store.directory}, where "
        f"{disk.gigabytes(disk.free_bytes(store.directory))} are free. `darkroom models pull` "
        "downloads them now."
    )
