"""Output of ``darkroom serve`` after the start: the key, example calls and the sample image."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from serve_app.cli.commands import model_list
from serve_app.cli.commands.downloads import (
    Download,
    chosen_endpoints,
    downloads,
    pull_command,
)
from serve_app.cli.commands.model_list import all_models
from serve_app.cli.commands.tune import MINUTES_PER_MODEL
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.generation.command import generate
from serve_app.cli.serve.gpus import machines, tuned_machines
from serve_app.domain.errors import DarkroomError
from serve_app.settings import Config
from weights import eviction
from weights.hub import Hub
from weights.store import Store

if TYPE_CHECKING:
    from serve_app.catalog.entries import CatalogEntry

MODEL = "fal-ai/flux/schnell"
PROMPT = "a red circle above a blue square"
TUNING_SHOWN = "tuning.shown"  # marker file: the notice about `darkroom tune` has been printed
OFFER_SHOWN = "real_model.shown"  # marker file: the offer of a real model has been printed
KEY_SHOWN = "api_key.shown"  # marker file next to the key: the key has been printed


def print_welcome(
    installation: Installation,
    url: str,
    echo: Callable[[str], None],
    *,
    sample: bool,
    demo: bool,
    screen: TextIO | None = None,
) -> None:
    """Print the API key once, print example calls, and with ``sample`` generate an image.

    Without ``demo``, ``screen`` shows the progress, because the weights may have to be downloaded
    first.
    """
    marker = installation.data_dir / KEY_SHOWN
    if not marker.exists():
        echo(f"\nYour API key, shown only once and stored in {installation.key_file}:\n")
        echo(f"    {installation.key()}")
        marker.touch(mode=0o600)
    try:
        with Client(installation) as client:
            model = sample_model(all_models(client))
    except DarkroomError:  # the list of models must not make the start fail
        model = MODEL
    data_dir = shlex.quote(str(installation.data_dir))
    if model is None:
        echo(f"\nOpen {url} in a browser. List the models: darkroom models --data-dir {data_dir}")
    else:
        echo(f"\nOpen {url} in a browser, or use fal's client (pip install fal-client):\n")
        for line in example_commands(installation, url, model):
            echo(f"    {line}")
        named = "" if model == MODEL else f" -m {model}"
        echo(
            f"\nOr: darkroom generate {shlex.quote(PROMPT)} -o out.png{named} --data-dir {data_dir}"
        )
    echo("Press Ctrl-C to stop Darkroom.\n")
    if not sample:
        return
    if model is None:
        echo("No sample image: none of the served models generates an image from a prompt.")
        return
    try:
        echo(_make_sample(installation, model, None if demo else screen))
    except DarkroomError as error:
        echo(f"The sample image failed: {error.message}")


def sample_model(models: Iterable[Mapping[str, Any]]) -> str | None:
    """``MODEL`` if it is served here; otherwise the first served text-to-image endpoint or None."""
    found = [
        str(each["endpoint_id"])
        for each in models
        if each["darkroom"]["served"] and each["metadata"]["category"] == "text-to-image"
    ]
    return MODEL if MODEL in found else next(iter(found), None)


def example_commands(installation: Installation, url: str, model: str = MODEL) -> Sequence[str]:
    """Shell commands that generate an image with fal's client, one per line."""
    # With both ports, programs that were written for fal run unchanged.
    unchanged = installation.tls_url() is not None and installation.proxy_url() is not None
    mode = "" if unchanged else " --mode plain"
    moved = (
        "" if unchanged else f"from serve_app import fal_plain_http; fal_plain_http.use('{url}'); "
    )
    arguments = {"prompt": PROMPT, "image_size": "square"}
    call = f"{moved}import fal_client; print(fal_client.subscribe('{model}', {arguments}))"
    activate = Path(sys.prefix) / "bin" / "activate"
    return (
        *([f". {shlex.quote(str(activate))}"] if activate.exists() else []),
        f'eval "$(darkroom env{mode} --data-dir {shlex.quote(str(installation.data_dir))})"',
        f'python -c "{call}"',
    )


def _image_of(installation: Installation) -> Path:
    return installation.data_dir / "sample.png"


def _make_sample(installation: Installation, model: str, screen: TextIO | None) -> str:
    started = time.monotonic()
    body = {"prompt": PROMPT, "image_size": "square", "output_format": "png"}
    image = _image_of(installation)
    with Client(installation) as client:
        result = generate(client, model, body, screen=screen)
        client.save(result["images"][0]["url"], image)
    took = time.monotonic() - started
    return f'"{PROMPT}" took {took:.1f} s: {image}'


# Notice of ``darkroom serve`` about weights that are not downloaded yet.

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
