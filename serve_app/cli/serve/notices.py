"""Notices of ``darkroom serve``: weights that are not downloaded, real models, and tuning."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.cli.commands import model_list
from serve_app.cli.commands.downloads import Download, chosen_endpoints, downloads, pull_command
from serve_app.cli.commands.tune import MINUTES_PER_MODEL
from serve_app.cli.serve.gpus import machines, tuned_machines
from serve_app.settings import Config
from weights import eviction
from weights.hub import Hub
from weights.store import Store

if TYPE_CHECKING:
    from serve_app.catalog.entries import CatalogEntry

OFFER_SHOWN = "real_model.shown"  # marker file: the offer of a real model has been printed

TUNING_SHOWN = "tuning.shown"  # marker file: the notice about `darkroom tune` has been printed

HUB_CALL_TIMEOUT_S = 3.0  # timeout of one call to the hub
TIMEOUT_S = 4.0  # timeout of all calls together, so that the start is not delayed for longer
HUB_TIMEOUT_MESSAGE = (
    "The hub does not answer, so the missing weights are not known. Run `{pull}` to try again."
)


def print_missing_weights(config: Config, out: Callable[[str], None]) -> None:
    """Print every repository that the first request would have to wait for.

    Prints nothing if all weights are downloaded or demo models are served.
    """
    if config.models.serves_demo:
        return
    store = Store(config.weights.store(), lambda: Hub(answer_s=HUB_CALL_TIMEOUT_S, tries=1))
    endpoints, pull = chosen_endpoints(config, ()), pull_command(config.server.data_dir)
    found: list[Download] = []
    # A mirror that hangs, or a slow name lookup, may take longer than the timeouts.
    asking = threading.Thread(
        target=lambda: found.extend(downloads(store, endpoints)), daemon=True, name="weights notice"
    )
    asking.start()
    asking.join(TIMEOUT_S)
    if asking.is_alive():
        out(HUB_TIMEOUT_MESSAGE.format(pull=pull))
        return
    for line in lines(store, found, model_list.smallest_gpu_bytes(), pull):
        out(line)


def lines(store: Store, found: Sequence[Download], memory: int | None, pull: str) -> Iterator[str]:
    waiting = [each for each in found if each.plan is None or each.plan.missing]
    if not waiting:
        return
    yield (
        "\nThese weights are not downloaded yet. The first request that needs them waits for the "
        "download:"
    )
    for each in waiting:
        for line in each.lines(memory):
            yield f"    {line}"
    missing = sum(each.missing_bytes for each in waiting)
    yield (
        f"In total {eviction.gigabytes(missing)} to {store.directory}, where "
        f"{eviction.gigabytes(eviction.free_bytes(store.directory))} are free. "
        f"`{pull}` downloads them now."
    )


OFFER_TIMEOUT_S = 2.0  # of all calls to the hub: the offer is left out rather than waited for


def print_real_model(config: Config, out: Callable[[str], None]) -> None:
    """At the first start that serves demo models, print what they are, and which real model runs
    without a GPU. Prints nothing if the hub does not answer soon, or the weights are here."""
    marker = config.server.data_dir / OFFER_SHOWN
    if not config.models.serves_demo or marker.exists():
        return
    store = Store(config.weights.store(), lambda: Hub(answer_s=OFFER_TIMEOUT_S, tries=1))
    if store.offline:
        return
    entry = _real_without_gpu(config)
    if entry is None:
        return
    found: list[Download] = []
    # A slow name lookup takes longer than the timeout of a call.
    asking = threading.Thread(
        target=lambda: found.extend(downloads(store, [entry.endpoint])),
        daemon=True,
        name="real model",
    )
    asking.start()
    asking.join(OFFER_TIMEOUT_S)
    missing = sum(each.missing_bytes for each in found)
    if not missing:
        return
    marker.touch(mode=0o600)
    endpoint, cpu = entry.endpoint, entry.source.cpu
    time_taken = (
        f", about {cpu.seconds:g} s for each {endpoint.kind}" if cpu and cpu.seconds else ""
    )
    out("The demo models are tiny: they draw a few shapes and know a few words.")
    out(
        f"A real model that runs without a GPU: {endpoint.display_name or endpoint.id} "
        f"({endpoint.licence or 'licence not stated'}, {eviction.gigabytes(missing)} to "
        f"download{time_taken}). Run `darkroom models pull {endpoint.id}`.\n"
    )


def _real_without_gpu(config: Config) -> CatalogEntry | None:
    """First endpoint that states what it takes without a GPU, and is served."""
    # Both import much that no earlier part of the start needs.
    from serve_app.app import hosted_families  # noqa: PLC0415
    from serve_app.catalog import catalog  # noqa: PLC0415

    models, families = config.models.models, hosted_families(config)
    listed = catalog.load(models, demo=True, demo_dir=Path("/"), families=families)
    served = (each for each in listed if each.source.cpu is not None and not each.missing)
    return next(served, None)


def print_not_tuned(config: Config, out: Callable[[str], None]) -> None:
    """At the first start with a GPU, print that it has not been tuned.

    Also with another GPU, driver or torch than before, for which no measurement holds.
    """
    marker = config.server.data_dir / TUNING_SHOWN
    if config.models.serves_demo or not config.models.gpus:
        return
    here, tuned = machines(), tuned_machines(config.tuning_file)
    if here & tuned or (not here and config.tuning_file.exists()):
        return
    seen = "\n".join(sorted(" ".join(each) for each in here))  # empty where it is not known
    if marker.exists() and marker.read_text() == seen:
        return
    marker.write_text(seen)
    marker.chmod(0o600)
    before = " Its measurements are of another GPU, driver or torch." if tuned else ""
    out(
        f"\nThis machine has not been tuned.{before} `darkroom tune` measures which variants of "
        f"the downloaded models are the fastest here. It takes about {MINUTES_PER_MODEL} minutes "
        "for each model. Stop Darkroom first."
    )
