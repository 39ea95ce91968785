"""``darkroom models pull``: brings real weights to this machine, without a running Darkroom."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

import click

from serve_app.cli import gpu
from serve_app.cli.downloads import Download, chosen_endpoints, downloads
from serve_app.domain.errors import DarkroomError, WeightsUnavailable
from serve_app.settings import Config
from weights import disk
from weights.store import Store


def run(config: Config, ids: Sequence[str], *, yes: bool, as_json: bool) -> int:
    """Say what will come, ask on a terminal, fetch; returns the exit status."""
    store = Store(config.weights_store())
    wanted = downloads(store, chosen_endpoints(config, ids))
    memory = gpu.least_memory_bytes()
    if not as_json:
        _announce(store, wanted, memory)
    missing = sum(each.missing_bytes for each in wanted)
    disk.check_room(store.directory, "All of it", missing)
    if missing and not (yes or as_json) and sys.stdin.isatty():
        click.confirm("Download?", abort=True)
    found = [_Pulled(each, *_pull(store, each, quiet=as_json)) for each in wanted]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "directory": str(store.directory),
                    "device_memory_bytes": memory,
                    "downloads": [each.as_json(memory) for each in found],
                },
                indent=2,
            )
        )
    else:
        for each in found:
            click.echo(each.line())
    return 1 if any(each.trouble for each in found) else 0


class _Pulled:
    """How it ended."""

    def __init__(self, download: Download, path: str, trouble: str) -> None:
        self._download = download
        self._path = path
        self.trouble = trouble

    def line(self) -> str:
        if self.trouble:
            return f"PROBLEM  {self._download.weights.source}: {self.trouble}"
        return f"ok       {self._download.weights.source}: {self._path}"

    def as_json(self, memory: int | None) -> dict[str, object]:
        told = self._download.as_json(memory)
        return {**told, "path": self._path or None, "error": self.trouble or None}


def _announce(store: Store, wanted: Sequence[Download], memory: int | None) -> None:
    if not wanted:
        click.echo("Nothing is to be downloaded: no endpoint stands on a repository of the hub.")
        return
    for each in wanted:
        for line in each.lines(memory) if each.plan else ():  # the trouble comes at the end
            click.echo(line)
    missing = sum(each.missing_bytes for each in wanted)
    click.echo(
        f"In all {disk.gigabytes(missing)} to download to {store.directory}, where "
        f"{disk.gigabytes(disk.free_bytes(store.directory))} are free."
    )


def _pull(store: Store, download: Download, *, quiet: bool) -> tuple[str, str]:
    """Where it is, and what went wrong; one of them is empty."""
    try:
        if download.plan is None:
            raise WeightsUnavailable(download.trouble)
        if quiet or not download.plan.missing:
            with store.open(download.weights) as path:
                return str(path), ""
        with (
            click.progressbar(
                length=download.plan.total_bytes, label=download.name, file=sys.stderr
            ) as bar,
            store.open(download.weights, _moving(bar.update)) as path,
        ):
            return str(path), ""
    except DarkroomError as error:
        return "", error.message


def _moving(update: Callable[[int], None]) -> Callable[[int, int], None]:
    """The bar takes steps, and progress is a place, which can go back."""
    at = 0

    def move(done: int, total: int) -> None:  # noqa: ARG001  the bar knows it
        nonlocal at
        update(done - at)
        at = done

    return move
