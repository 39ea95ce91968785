"""What ``darkroom serve`` says once it answers: the key, how to call it, the first picture."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve_app.cli.client import Client
from serve_app.cli.generate import generate
from serve_app.cli.installation import Installation
from serve_app.cli.models import every
from serve_app.domain.errors import DarkroomError

MODEL = "fal-ai/flux/schnell"
PROMPT = "a red circle above a blue square"
KEY_SHOWN = "api_key.shown"  # a file next to the key: it has been printed once


def greet(
    installation: Installation, url: str, say: Callable[[str], None], *, sample: bool, demo: bool
) -> None:
    """Print the new key once and how to call, and make a picture if asked to.

    Without ``demo`` its weights may have to be downloaded first: then all of the way is shown.
    """
    marker = installation.data_dir / KEY_SHOWN
    if not marker.exists():
        say(f"\nYour API key, shown once and kept in {installation.key_file}:\n")
        say(f"    {installation.key()}")
        marker.touch(mode=0o600)
    try:
        with Client(installation) as client:
            model = drawing_model(every(client))
    except DarkroomError:  # what it serves is not what the start stands on
        model = MODEL
    data_dir = shlex.quote(str(installation.data_dir))
    if model is None:
        say(f"\nOpen {url} in a browser. `darkroom models --data-dir {data_dir}` lists its models.")
    else:
        say(f"\nOpen {url} in a browser. Or call it with fal's client (pip install fal-client):\n")
        for line in call_lines(installation, url, model):
            say(f"    {line}")
        named = "" if model == MODEL else f" -m {model}"
        say(
            f"\nor: darkroom generate {shlex.quote(PROMPT)} -o out.png{named} --data-dir {data_dir}"
        )
    say("Ctrl-C stops it.\n")
    if not sample:
        return
    if model is None:
        say("There is no sample picture: no model here makes one of a prompt.")
        return
    try:
        say(_make_sample(installation, model, show=not demo))
    except DarkroomError as error:
        say(f"The sample picture failed: {error.message}")
    except OSError as error:
        say(f"The sample picture could not be written to {_picture_of(installation)}: {error}.")


def drawing_model(models: Iterable[Mapping[str, Any]]) -> str | None:
    """The usual one, or else the first that is served here and makes a picture of a prompt."""
    found = [
        str(each["endpoint_id"])
        for each in models
        if each["darkroom"]["served"] and each["metadata"]["category"] == "text-to-image"
    ]
    return MODEL if MODEL in found else next(iter(found), None)


def call_lines(installation: Installation, url: str, model: str = MODEL) -> Sequence[str]:
    """What a shell needs to run to get a picture by fal's client, a command a line."""
    # With both ports, what was written for fal runs as it is.
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


def _picture_of(installation: Installation) -> Path:
    return installation.data_dir / "sample.png"


def _make_sample(installation: Installation, model: str, *, show: bool) -> str:
    started = time.monotonic()
    body = {"prompt": PROMPT, "image_size": "square", "output_format": "png"}
    picture = _picture_of(installation)
    with Client(installation) as client:
        result = generate(client, model, body, show=show)
        picture.write_bytes(client.download(result["images"][0]["url"]))
    took = time.monotonic() - started
    return f'"{PROMPT}" took {took:.1f} s: {picture}'
