"""``darkroom generate``: a prompt becomes files, with a bar that shows how far it is."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from serve_app.cli.client import ApiFailure, Client
from serve_app.cli.files import inside, outputs, places, write
from serve_app.cli.format_field import format_field
from serve_app.cli.installation import Installation
from serve_app.cli.preview_file import PreviewFile
from serve_app.cli.wish import Wish, format_of, kind_of

WAITING = {
    "busy": "waiting for a free slot",
    "cold_start": "waiting for a replica to start",
    "no_replica": "waiting for a replica",
    "limit": "waiting for a limit on what runs",
    "following": "waiting for another request, which makes the same",
    "paused": "waiting for an operator to resume the endpoint",
}
DENOISING = "denoising"
DOWNLOADING = "downloading"  # the stage whose steps are bytes


def run(
    installation: Installation,
    wish: Wish,
    output: Path,
    *,
    preview: Path | None = None,
    as_json: bool,
    show: bool,
) -> None:
    """Submit, follow, and write every file that was made to ``output`` and, numbered, beside it.

    ``preview`` is written anew while it is made. ``as_json`` prints the endpoint's output and where
    its files lie; ``show`` opens them.
    """
    output_format = format_of(output)
    model = wish.endpoint(kind_of(output_format))
    wish.body()  # What is wrong with it is wrong before anything is asked.
    with Client(installation) as client:
        name = format_field(client, model)
        body = wish.body(**({name: output_format} if name else {}))
        look = PreviewFile(client.preview, preview).look if preview else _nothing
        result = generate(client, model, body, show=not as_json, look=look)
        files = list(outputs(result))
        if not files:
            raise ApiFailure(f"{model} made no file: {json.dumps(result)[:200]}")
        saved = [
            _save(client, path, file)
            for path, file in zip(places(output, files), files, strict=True)
        ]
    if as_json:
        click.echo(json.dumps(result | {"saved": [str(path.absolute()) for path in saved]}))
    else:
        _tell(result, files, saved)
    for path in saved if show else ():
        click.launch(str(path))


def _nothing(status: Mapping[str, Any]) -> None:
    """Nobody wants to see a preview."""


def generate(
    client: Client,
    model: str,
    body: dict[str, Any],
    *,
    show: bool,
    look: Callable[[Mapping[str, Any]], None] = _nothing,
) -> dict[str, Any]:
    """Submit and follow to the end; returns the output. ``ApiFailure`` with the server's reason.
    ``look`` is told each status."""
    submitted = client.submit(model, body)
    if not show:
        for status in client.follow(submitted):
            look(status)
        return dict(client.get(submitted["response_url"]))
    with click.progressbar(length=100, label="queued", file=sys.stderr) as bar:
        for status in client.follow(submitted):
            _show(bar, status)
            look(status)
    return dict(client.get(submitted["response_url"]))


def _save(client: Client, path: Path, file: Mapping[str, Any]) -> Path:
    content = inside(file["url"])
    write(path, client.download(file["url"]) if content is None else content)
    return path


def _tell(result: Mapping[str, Any], files: list[Mapping[str, Any]], saved: list[Path]) -> None:
    for file, path in zip(files, saved, strict=True):
        sized = f"  {file['width']}×{file['height']}" if "width" in file else ""
        click.echo(f"{path}{sized}")
    seed = f"seed {result['seed']}" if "seed" in result else "done"
    demo = ", made by the demo model" if result.get("darkroom_demo") else ""
    click.echo(f"{seed}{demo}")


def _show(bar: Any, status: dict[str, Any]) -> None:
    bar.label, done = standing(status)
    bar.update(max(0, done - bar.pos))
    bar.render_progress()


def standing(status: Mapping[str, Any]) -> tuple[str, int]:
    """A status in words, and how much of the bar is filled, in hundredths."""
    ours = status.get("darkroom") or {}
    if status["status"] == "IN_QUEUE":
        reason = WAITING.get(ours.get("reason", ""), "queued")
        doing = f": {detail}" if (detail := ours.get("detail")) else ""
        share = ours.get("share")  # of the stage of a cold start
        done = "" if share is None else f", {share:.0%} of {ours.get('stage') or 'it'}"
        return f"{reason}{doing}{done} (place {status['queue_position'] + 1}{_starts(ours)})", 0
    if status["status"] != "IN_PROGRESS":
        return "failed" if status.get("error") else "done", 100
    stage, step, steps = ours.get("stage"), ours.get("step", 0), ours.get("steps", 0)
    words = (stage or "running").replace("_", " ")
    if stage == DOWNLOADING and steps:  # The bar is for what comes after.
        left = f", {_duration(left_s)} left" if (left_s := ours.get("left_s")) is not None else ""
        return f"{words} weights, {step / 1e9:.1f} of {steps / 1e9:.1f} GB{left}", 0
    return f"{words}{_pace(ours)}", int(95 * step / steps) if steps else 0


def _pace(ours: Mapping[str, Any]) -> str:
    """Such as `` 12/40, 3.1 steps/s, 9 s left``."""
    step, steps, rate, left_s = (ours.get(name) for name in ("step", "steps", "rate", "left_s"))
    if not steps:
        return ""
    if not rate or left_s is None:
        return f" {step}/{steps}"
    each = "step" if ours.get("stage") == DENOISING else "part"  # frames, samples, files
    speed = f"{rate:.1f} {each}s/s" if rate >= 1 else f"{1 / rate:.1f} s a {each}"
    return f" {step}/{steps}, {speed}, {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60} s"


def _starts(ours: Mapping[str, Any]) -> str:
    """When it should start, as far as one can tell. The clocks of two machines may differ, so it is
    never said to be over."""
    if not (at := ours.get("starts_at")):
        return ""
    seconds = (datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds()
    return f", starts in about {duration(max(1.0, seconds))}"


def duration(seconds: float) -> str:
    """Such as ``40 s`` or ``3 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
