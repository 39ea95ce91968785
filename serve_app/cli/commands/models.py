"""``darkroom models``: commands for endpoints and their weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from serve_app.cli.commands import model_entries, model_list
from serve_app.cli.commands.downloads import (
    RepositoryDownload,
    chosen_entries,
    downloads,
    total_text,
)
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.progress_line import ProgressLine, columns_of
from serve_app.cli.connection.text import counted, echo
from serve_app.cli.generation.progress import draw_bar, progress_bar
from serve_app.cli.group import InheritingGroup
from serve_app.domain.errors import DarkroomError, WeightsUnavailable
from serve_app.settings import Config
from weights import eviction
from weights.eviction import gigabytes
from weights.hub import Hub
from weights.store import Store, repositories_of

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # it has no public name

# ``darkroom models pull``: downloads real weights, without a running Darkroom.


def run(config: Config, ids: Sequence[str], *, yes: bool, as_json: bool) -> int:
    """Show the downloads, ask for confirmation on a terminal, download; returns the exit status."""
    store, entries = Store(config.weights.store()), chosen_entries(config, ids)
    with ProgressLine("Asking the hub what is to be downloaded", quiet=as_json):
        repositories = downloads(config, _asking_store(config), entries)
    if not as_json:
        _announce(store, repositories)
    missing = sum(repository.missing_bytes or 0 for repository in repositories)
    eviction.check_room(store.directory, "All of it", missing)
    if missing and not (yes or as_json) and sys.stdin.isatty():
        click.confirm("Download?", abort=True)
    results = [
        _PullResult(repository, *_pull(store, repository, quiet=as_json))
        for repository in repositories
    ]
    if as_json:
        document = {
            "directory": str(store.directory),
            "downloads": [outcome.as_json() for outcome in results],
        }
        echo(json.dumps(document, indent=2))
    else:
        for line in _lines(results):
            echo(line)
    return 1 if any(outcome.trouble for outcome in results) else 0


def _asking_store(config: Config) -> Store:
    """Store that gives up a hub early which cannot be reached: somebody waits for the first line,
    and nothing is lost yet."""
    return Store(config.weights.store(), lambda: Hub(tries=2))


def _lines(results: Sequence[_PullResult]) -> Iterator[str]:
    """Description of the results for a terminal. Repositories with one problem, such as a hub that
    cannot be reached, share a line."""
    by_problem: dict[str, list[str]] = {}
    for result in results:
        if result.trouble:
            why = result.trouble.removeprefix(f"{result.source} ")
            of_hub = why != result.trouble
            by_problem.setdefault(f" {why}" if of_hub else f": {why}", []).append(result.source)
        else:
            yield f"ok       {result.source}: {result.path}"
    for why, sources in by_problem.items():
        yield f"PROBLEM  {', '.join(dict.fromkeys(sources))}{why}"


class _PullResult:
    """Result of one download."""

    def __init__(self, download: RepositoryDownload, path: str, trouble: str) -> None:
        self._download = download
        self.source = download.available.weights.source
        self.path = path
        self.trouble = trouble

    def as_json(self) -> dict[str, object]:
        summary = self._download.as_json()
        return {**summary, "path": self.path or None, "error": self.trouble or None}


def _announce(store: Store, repositories: Sequence[RepositoryDownload]) -> None:
    if not repositories:
        echo("Nothing to download: no endpoint uses a repository of the hub.")
        return
    for download in repositories:
        for line in (
            download.lines() if download.available.plan else ()
        ):  # errors are printed at the end
            echo(line)
    if all(download.missing_bytes is None for download in repositories):
        return
    echo(
        f"In total {total_text(repositories)} to download to {store.directory}, where "
        f"{eviction.gigabytes(eviction.free_bytes(store.directory))} are free."
    )


def _pull(store: Store, download: RepositoryDownload, *, quiet: bool) -> tuple[str, str]:
    """Path of the weights, and the error message; one of them is empty."""
    try:
        weights, plan = download.available.weights, download.available.plan
        if plan is None:
            raise WeightsUnavailable(download.available.problem)
        if quiet or not plan.missing:
            with store.open(weights) as path:
                return str(path), ""
        columns = columns_of(sys.stderr)
        with (
            progress_bar(sys.stderr, columns, download.name, estimate=columns >= WIDE) as bar,
            store.open(weights, _moving(bar, download.name)) as path,
        ):
            return str(path), ""
    except DarkroomError as error:
        return "", error.message


WIDE = 60  # columns of a terminal that has room for the name and an estimate


def _moving(bar: ProgressBar[int], name: str) -> Callable[[int, int], None]:
    def move(done: int, total: int) -> None:
        draw_bar(bar, name, 100 * done // total if total else 0, columns_of(sys.stderr))

    return move


# ``darkroom models verify`` and ``push-mirror``: maintenance of the weight store.


def verify(config: Config, *, as_json: bool) -> int:
    """Read every file of the store and delete damaged ones.

    Returns the exit status: the number of damaged files, at most 100.
    """
    store = Store(config.weights.store())
    files: list[dict[str, Any]] = []
    with ProgressLine("Reading the weights", quiet=as_json) as waiting:
        for repository, path, right in store.verify():
            files.append({"repository": repository, "path": path, "right": right})
            waiting.show(f"Reading the weights: {len(files)} files are read")
    damaged = [file for file in files if not file["right"]]
    if as_json:
        echo(json.dumps({"directory": str(store.directory), "files": files}, indent=2))
    else:
        for damaged_file in damaged:
            echo(
                f"PROBLEM  {damaged_file['repository']}: {damaged_file['path']} was damaged; "
                "deleted."
            )
        echo(f"{counted(len(files), 'file')} in {store.directory}, {len(damaged)} damaged.")
        if damaged:
            echo(
                "Run `darkroom models pull` to download them again. Otherwise the next request "
                "that needs them downloads them."
            )
    return min(len(damaged), 100)


def push_mirror(config: Config, ids: Sequence[str], *, as_json: bool) -> int:
    """Upload weights of this machine to the mirror and report those that are not here.

    Returns the exit status: 1 if anything failed.
    """
    store = Store(config.weights.store())
    repositories = dict.fromkeys(
        weights
        for entry in chosen_entries(config, ids)
        for weights in repositories_of(entry.endpoint)
    )
    sent: dict[str, int] = {}
    troubles: dict[str, str] = {}
    for weights in repositories:
        try:
            if not store.is_here(weights):
                troubles[weights.source] = "not downloaded yet; run `darkroom models pull` first"
                continue
            with ProgressLine(f"Uploading {weights.source}", quiet=as_json):
                sent[weights.source] = store.push(weights)
        except DarkroomError as error:
            troubles[weights.source] = error.message
    if as_json:
        echo(json.dumps({"sent_bytes": sent, "errors": troubles}, indent=2))
    else:
        for name, size in sent.items():
            echo(f"ok       {name}: {gigabytes(size) if size else 'nothing'} uploaded")
        for name, trouble in troubles.items():
            echo(f"PROBLEM  {name}: {trouble}")
    return 1 if troubles else 0


_endpoints = click.argument("endpoints", nargs=-1, shell_complete=completion.endpoints)


@click.group("models", cls=InheritingGroup, invoke_without_command=True)
@options.server_options
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also show endpoints that are not served, and of each whether its own model fits this "
    "machine, what it needs, the size of the download, and its licence.",
)
@options.as_json
@click.pass_context
def models_group(context: click.Context, *, everything: bool, as_json: bool, **params: Any) -> None:
    """List the served endpoints, by what they make."""
    if context.invoked_subcommand is None:
        server = options.named_server(params)
        model_list.list_models(server, as_json=as_json, everything=everything)


@models_group.command("show")
@options.server_options
@click.argument("endpoint", shell_complete=completion.endpoints)
@options.as_json
def show_command(endpoint: str, *, as_json: bool, **params: Any) -> None:
    """Show all about ENDPOINT: what answers here, and what its own model needs."""
    model_list.show_model(options.named_server(params), endpoint, as_json=as_json)


@models_group.command("pull")
@options.config_of_data_dir
@_endpoints
@options.yes
@options.as_json
def pull_command(config: Config, endpoints: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    """Download the weights of ENDPOINTS, or of all served endpoints, to this machine.

    Shows the size, the licence, the free disk space and whether the model fits first. Darkroom does
    not have to be running.
    """
    sys.exit(run(config, endpoints, yes=yes, as_json=as_json))


@models_group.command("verify")
@options.config
@options.as_json
def verify_command(config: Config, *, as_json: bool) -> None:
    """Read all downloaded weights and compare their digests.

    Deletes damaged files. The exit status is the number of damaged files, at most 100.
    """
    sys.exit(verify(config, as_json=as_json))


@models_group.command("push-mirror")
@options.config_of_data_dir
@_endpoints
@options.as_json
def push_mirror_command(config: Config, endpoints: tuple[str, ...], *, as_json: bool) -> None:
    """Upload downloaded weights to the mirror, of ENDPOINTS or of all served endpoints."""
    sys.exit(push_mirror(config, endpoints, as_json=as_json))


models_group.add_command(model_entries.add_command)
models_group.add_command(model_entries.delete_command)
models_group.add_command(model_entries.check_command)
