"""``darkroom generate``: a prompt becomes a file, with a bar that shows how far it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from serve_app.cli.client import ApiFailure, Client
from serve_app.cli.installation import Installation
from serve_app.domain.errors import InvalidInput, Misconfigured

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
WAITING = {
    "busy": "waiting for a free slot",
    "cold_start": "waiting for a replica to start",
    "no_replica": "waiting for a replica",
}


def run(
    installation: Installation,
    prompt: str,
    output: Path,
    *,
    model: str,
    seed: int | None,
    steps: int | None,
    size: str | None,
    fields: tuple[str, ...],
) -> None:
    """Submit, show progress, and write the picture to ``output``."""
    output_format = FORMATS.get(output.suffix.lower())
    if output_format is None:
        raise InvalidInput(f"{output} should end in one of {', '.join(FORMATS)}.")
    body: dict[str, Any] = {"prompt": prompt, "output_format": output_format}
    body |= {} if seed is None else {"seed": seed}
    body |= {} if steps is None else {"num_inference_steps": steps}
    body |= {} if size is None else {"image_size": _size(size)}
    body |= dict(_field(one) for one in fields)
    client = Client(installation)
    result = generate(client, model, body, show=True)
    images = result.get("images") or []
    if not images:
        raise ApiFailure(f"{model} made no picture: {json.dumps(result)[:200]}")
    for number, image in enumerate(images):
        _write(_numbered(output, number), client.download(image["url"]))
        click.echo(f"{_numbered(output, number)}  {image.get('width')}×{image.get('height')}")
    demo = ", made by the demo model" if result.get("darkroom_demo") else ""
    click.echo(f"seed {result.get('seed')}{demo}")


def generate(client: Client, model: str, body: dict[str, Any], *, show: bool) -> dict[str, Any]:
    """Submit and follow to the end; returns the output. ``ApiFailure`` with the server's reason."""
    submitted = client.submit(model, body)
    if not show:
        for _ in client.follow(submitted):
            pass
        return dict(client.get(submitted["response_url"]))
    with click.progressbar(length=100, label="queued", file=sys.stderr) as bar:
        for status in client.follow(submitted):
            _show(bar, status)
    return dict(client.get(submitted["response_url"]))


def _show(bar: Any, status: dict[str, Any]) -> None:
    ours = status.get("darkroom") or {}
    if status["status"] == "IN_QUEUE":
        reason = WAITING.get(ours.get("reason", ""), "queued")
        bar.label = f"{reason} (place {status['queue_position'] + 1})"
    elif status["status"] == "IN_PROGRESS":
        stage, step, steps = ours.get("stage"), ours.get("step", 0), ours.get("steps", 0)
        bar.label = (stage or "running").replace("_", " ")
        done = int(95 * step / steps) if steps else 0
        bar.update(max(0, done - bar.pos))
    else:
        bar.label = "done" if not status.get("error") else "failed"
        bar.update(100 - bar.pos)
    bar.render_progress()


def _size(text: str) -> str | dict[str, int]:
    width, separator, height = text.partition("x")
    if separator and width.isdigit() and height.isdigit():
        return {"width": int(width), "height": int(height)}
    return text


def _field(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise InvalidInput(f"--field takes NAME=JSON, not {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is a string


def _numbered(output: Path, number: int) -> Path:
    return output if number == 0 else output.with_stem(f"{output.stem}-{number + 1}")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}.") from None
