"""Notices of ``darkroom serve``: weights that are not downloaded, real models, and tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.cli.commands.downloads import (
    RepositoryDownload,
    chosen_entries,
    downloads,
    pull_command,
    total_text,
)
from serve_app.cli.commands.tune import MINUTES_PER_MODEL
from serve_app.cli.serve.gpus import machines, tuned_machines
from serve_app.domain.preflight import HubState, gigabytes
from serve_app.preflight import impatient_store
from serve_app.settings import Config
from weights import eviction
from weights.store import Store

if TYPE_CHECKING:
    from serve_app.catalog.entries import CatalogEntry

OFFER_SHOWN = "real_model.shown"  # marker file: the offer of a real model has been printed

TUNING_SHOWN = "tuning.shown"  # marker file: the notice about `darkroom tune` has been printed

TIMEOUT_S = 4.0  # of all calls to the hub together, so that the start is not delayed for longer


def print_missing_weights(config: Config, out: Callable[[str], None]) -> None:
    """Print every repository that the first request would have to wait for.

    Prints nothing if all weights are downloaded or demo models are served.
    """
    if config.models.serves_demo:
        return
    store = impatient_store(config)
    repositories = downloads(config, store, chosen_entries(config, ()), TIMEOUT_S)
    for line in lines(store, repositories, pull_command(config.server.data_dir)):
        out(line)


def lines(store: Store, repositories: Sequence[RepositoryDownload], pull: str) -> Iterator[str]:
    """Lines about weights that are not here."""
    waiting = [repository for repository in repositories if repository.missing_bytes != 0]
    if not waiting:
        return
    yield (
        "\nThese weights are not downloaded yet. The first request that needs them waits for the "
        "download:"
    )
    for download in waiting:
        for line in download.lines():
            yield f"    {line}"
    yield (
        f"In total {total_text(waiting)} to {store.directory}, where "
        f"{gigabytes(eviction.free_bytes(store.directory))} are free. "
        f"`{pull}` downloads them now."
    )


OFFER_TIMEOUT_S = 2.0  # of all calls to the hub


def print_real_model(config: Config, out: Callable[[str], None]) -> None:
    """At the first start that serves demo models, print what they are, and which real model runs
    without a GPU. Once more when it can be downloaded, if it could not. Nothing if its weights are
    here."""
    marker = config.server.data_dir / OFFER_SHOWN
    if not config.models.serves_demo or (entry := _real_without_gpu(config)) is None:
        return
    before = marker.read_text() if marker.exists() else None
    if before == "":
        return
    repositories = downloads(config, impatient_store(config), [entry], OFFER_TIMEOUT_S)
    if not repositories or all(repository.missing_bytes == 0 for repository in repositories):
        return
    answer = repositories[0].answers[0]
    problem = (
        answer.sentences().get("access", "") if answer.download.source is not HubState.GIVES else ""
    )
    if before == problem:
        return
    marker.write_text(problem)
    marker.chmod(0o600)
    out("The demo models are tiny: they draw a few shapes and know a few words.")
    facts = ", ".join(answer.sentences()[subject] for subject in ("licence", "download", "time"))
    out(f"A real model that runs without a GPU: {answer.name} ({facts}).")
    out(f"It cannot be downloaded now: {problem}\n" if problem else f"Run `{answer.pull}`.\n")


def _real_without_gpu(config: Config) -> CatalogEntry | None:
    """First endpoint that states what it takes without a GPU, and is served."""
    # Both import much that no earlier part of the start needs.
    from serve_app.app import hosted_families  # noqa: PLC0415
    from serve_app.catalog import catalog  # noqa: PLC0415

    models, families = config.models.models, hosted_families(config)
    listed = catalog.load(models, demo=True, demo_dir=Path("/"), families=families)
    served = (entry for entry in listed if entry.source.cpu is not None and not entry.missing)
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
    seen = "\n".join(sorted(" ".join(machine) for machine in here))  # empty where it is not known
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
