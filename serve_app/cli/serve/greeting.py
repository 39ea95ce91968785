"""Output of ``darkroom serve`` after the start: the key, example calls and the sample image."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from serve_app.cli.commands.model_list import all_models
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.installation import Installation
from serve_app.cli.generation.command import generate
from serve_app.cli.generation.endpoint_input import look_up
from serve_app.domain.errors import DarkroomError

MODEL = "fal-ai/flux/schnell"
PROMPT = "a red circle above a blue square"
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
            model = sample_model(
                all_models(client), lambda endpoint: "prompt" in look_up(client, endpoint).fields
            )
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


def sample_model(
    models: Iterable[Mapping[str, Any]], takes_prompt: Callable[[str], bool]
) -> str | None:
    """``MODEL`` if it is served here; otherwise the first served text-to-image endpoint that takes
    a prompt (one for any workflow of ComfyUI does not), or None."""
    ids = [
        str(model["endpoint_id"])
        for model in models
        if model["darkroom"]["served"] and model["metadata"]["category"] == "text-to-image"
    ]
    return MODEL if MODEL in ids else next(filter(takes_prompt, ids), None)


def example_commands(installation: Installation, url: str, model: str = MODEL) -> Sequence[str]:
    """Shell commands that generate an image with fal's client, one per line."""
    # With both ports, programs that were written for fal run unchanged.
    unchanged = installation.tls_url() is not None and installation.proxy_url() is not None
    mode = "" if unchanged else " --mode plain"
    moved = "" if unchanged else f"import fal_plain_http; fal_plain_http.use('{url}'); "
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
