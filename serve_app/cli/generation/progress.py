"""Progress of a request, as text and as a preview file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from serve_app.cli.connection.client import ServerAway
from serve_app.cli.connection.text import shorten
from serve_app.cli.connection.whole_file import whole_file

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # it has no public name

# Preview file of a running request, for an image viewer that reloads it.


class PreviewFile:
    """File that each new preview replaces atomically, so that readers never see a partial one."""

    def __init__(self, fetch: Callable[[str], bytes | None], path: Path) -> None:
        """``fetch`` returns the image at a URL, like ``Client.preview``."""
        self._fetch = fetch
        self._path = path
        self._last_url: str | None = None

    def on_status(self, status: Mapping[str, Any]) -> None:
        """Fetch the preview that the status names, unless it is already written."""
        url = (status.get("darkroom") or {}).get("preview")
        if url is None or url == self._last_url:
            return
        try:
            image = self._fetch(url)
        except ServerAway:  # as while the server restarts, which the request outlasts
            return
        self._last_url = url
        if image:
            with whole_file(self._path) as file:
                file.write(image)


WAIT_REASONS = {
    "busy": "waiting for a free slot",
    "cold_start": "waiting for a replica to start",
    "no_replica": "waiting for a replica",
    "limit": "waiting because of a limit on running requests",
    "following": "waiting for an identical request",
    "paused": "waiting for an operator to resume the endpoint",
}
DENOISING = "denoising"
BYTE_STAGES = ("downloading", "loading")  # whose steps are bytes


def progress_text(status: Mapping[str, Any]) -> tuple[str, int]:
    """Text of a status, and how far the progress bar is filled, in percent."""
    ours = status.get("darkroom") or {}
    if status["status"] == "IN_QUEUE":
        reason = WAIT_REASONS.get(ours.get("reason", ""), "queued")
        doing = f": {detail}" if (detail := ours.get("detail")) else ""
        share = ours.get("share")  # completed fraction of a cold start's stage
        stage = (ours.get("stage") or "it").replace("_", " ")
        done = (
            "" if share is None else f", {share:.0%} of {stage.replace('for node', 'for a node')}"
        )
        return (
            f"{reason}{doing}{done} (position {status['queue_position'] + 1}{_start_text(ours)})",
            0,
        )
    if status["status"] != "IN_PROGRESS":
        return "failed" if status.get("error") else "done", 100
    if workflow := ours.get("workflow"):
        return _steps_text(workflow["steps"])
    stage, step, steps = ours.get("stage"), ours.get("step", 0), ours.get("steps", 0)
    words = (stage or "running").replace("_", " ")
    if stage in BYTE_STAGES and steps:  # The bar shows only the stages after these.
        left = f", {_duration(left_s)} left" if (left_s := ours.get("left_s")) is not None else ""
        return f"{words} weights, {step / 1e9:.1f} of {steps / 1e9:.1f} GB{left}", 0
    return f"{words}{_pace_text(ours)}", int(95 * step / steps) if steps else 0


def _steps_text(steps: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """How far a workflow is, and why a step of it waits."""
    over = sum(step["state"] in ("succeeded", "skipped") for step in steps)
    words = f"{over} of {len(steps)} steps done"
    waits = next((step for step in steps if step.get("reason")), None)
    if waits is not None:
        why = WAIT_REASONS.get(waits["reason"]), waits["detail"]
        words += ", " + ": ".join(filter(None, (waits["node_id"], *why)))
    return words, int(95 * over / len(steps)) if steps else 0


BAR_COLUMNS = 20  # at most; a quarter of a narrow terminal
_AROUND = (
    len("  [" + "]   100%") + 1
)  # and the last column, in which some terminals begin a new line
_ESTIMATE = len("  9d 00:00:00")


def progress_bar(
    stream: TextIO, columns: int, label: str = "queued", *, estimate: bool = False
) -> ProgressBar[int]:
    """Bar of 100 steps in a terminal so wide. ``estimate``: with ``click``'s, since a status has
    the server's."""
    width = min(BAR_COLUMNS, columns // 4)
    bar = click.progressbar(length=100, width=width, show_eta=estimate, file=stream)
    bar.label = _label(bar, label, columns)
    return bar


def update_bar(bar: ProgressBar[int], status: Mapping[str, Any], columns: int) -> None:
    """Show a status in one line of a terminal so wide: ``click`` draws only a single line anew."""
    draw_bar(bar, *progress_text(status), columns)


def draw_bar(bar: ProgressBar[int], words: str, done: int, columns: int) -> None:
    """Show ``words`` and so many percent in one line, as ``update_bar`` does."""
    bar.width = min(BAR_COLUMNS, columns // 4)
    bar.label = _label(bar, words, columns)
    bar.update(max(0, done - bar.pos))
    bar.render_progress()


def _label(bar: ProgressBar[int], words: str, columns: int) -> str:
    around = _AROUND + (_ESTIMATE if bar.show_eta else 0)
    return shorten(words, max(1, columns - bar.width - around))


def _pace_text(ours: Mapping[str, Any]) -> str:
    """Progress text such as `` 12/40, 3.1 steps/s, 9 s left``."""
    step, steps, rate, left_s = (ours.get(name) for name in ("step", "steps", "rate", "left_s"))
    if not steps:
        return ""
    if not rate or left_s is None:
        return f" {step}/{steps}"
    unit = "step" if ours.get("stage") == DENOISING else "part"  # frames, samples, files
    speed = f"{rate:.1f} {unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s per {unit}"
    return f" {step}/{steps}, {speed}, {_duration(left_s)} left"


def _duration(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60} s"


def _start_text(ours: Mapping[str, Any]) -> str:
    """Estimated time until the request starts; empty without an estimate.

    At least one second, because the clocks of the two machines may differ.
    """
    if not (at := ours.get("starts_at")):
        return ""
    seconds = (datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds()
    return f", starts in about {duration(max(1.0, seconds))}"


def duration(seconds: float) -> str:
    """Duration as text, such as ``40 s`` or ``3 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
