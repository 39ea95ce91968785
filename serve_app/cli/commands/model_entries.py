"""``darkroom models add``, ``delete`` and ``check``: entries of the catalogue."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from serve_app.cli.commands.downloads import pull_command
from serve_app.cli.connection import completion, options
from serve_app.cli.connection.client import Client
from serve_app.cli.connection.progress_line import ProgressLine
from serve_app.cli.connection.remote import Remote
from serve_app.cli.connection.resources import path_of
from serve_app.cli.connection.server import Server
from serve_app.cli.connection.text import counted, echo
from serve_app.cli.inspection.control_nets import check_control_nets
from serve_app.cli.inspection.derivation import derive_inputs
from serve_app.cli.inspection.fal_parts import parts_of
from serve_app.cli.inspection.packages import missing_packages
from serve_app.cli.inspection.pipeline_call import PipelineCall, read_call
from serve_app.cli.inspection.proposal import complete_entry, like, propose
from serve_app.cli.inspection.repository import Repository, id_of, inspect_repository
from serve_app.domain.errors import Misconfigured
from serve_app.domain.preflight import missing_text
from serve_app.options.inputs import OPTION as INPUTS
from serve_app.resources.entries import ENTRIES
from serve_app.settings import read_config
from weights.eviction import gigabytes
from weights.store import Store


@click.command("add")
@options.server
@click.argument("endpoint")
@click.option(
    "--weights",
    metavar="REPOSITORY",
    help="Diffusers pipeline: owner/name@commit of the hub, or a folder with the same path on "
    "every node with replicas. Default: ENDPOINT names it.",
)
@click.option(
    "--checkpoint",
    metavar="FILE",
    help="One safetensors or GGUF file whose components replace those of the pipeline: a path, or "
    "owner/name/file@commit of the hub.",
)
@click.option(
    "--part",
    multiple=True,
    metavar="COMPONENT=PLACE",
    help="Component of another place, such as controlnet=owner/name: a folder, or "
    "owner/name/folder@commit of the hub; of ip_adapter, a file in place of the folder; of prior, "
    "the pipeline that is the first of two stages. May be repeated, also for one component, such "
    "as ControlNets or IP-Adapters that run together.",
)
@click.option(
    "--pipeline",
    metavar="CLASS",
    help="Class of diffusers that takes the components, such as FluxControlNetPipeline.",
)
@click.option("--variant", metavar="NAME", help="Variant of the weights' files, such as fp16.")
@click.option(
    "--like",
    "like_id",
    metavar="ENDPOINT",
    shell_complete=completion.endpoints,
    help="Copy schema, defaults, options and recipes of this endpoint.",
)
@click.option(
    "--pool", metavar="POOL", help="Pool that runs it. Default: the first one with its family."
)
@click.option(
    "--cpu",
    is_flag=True,
    help="Serve it beside demo models too, because a CPU is enough for it.",
)
@click.option("--name", metavar="NAME", help="Name that people see.")
@click.option(
    "--licence", metavar="NAME", help="Licence. Default: what the repository's README states."
)
@click.option("--replace", is_flag=True, help="Replace the endpoint if it exists already.")
@options.dry_run
@options.as_json
def add_command(
    server: Server,
    endpoint: str,
    *,
    weights: str | None,
    checkpoint: str | None,
    part: Sequence[str],
    pipeline: str | None,
    variant: str | None,
    like_id: str | None,
    cpu: bool,
    replace: bool,
    dry_run: bool,
    as_json: bool,
    **params: str | None,
) -> None:
    """Serve a diffusers repository as ENDPOINT, without a restart.

    ENDPOINT is an id such as house/portraits. It may also be the repository: owner/name of the hub
    is served under its name, a folder as local/ with the folder's name.

    Family, schema and options follow from the pipeline's class and arguments. Every replica of the
    ingress serves it within about a second.
    """
    store = Store(read_config({}).weights.store())
    if weights is None:
        weights, endpoint = endpoint, id_of(endpoint)
    with ProgressLine(f"Reading {weights}", quiet=as_json):
        repository = inspect_repository(weights, variant, store, checkpoint, _parts(part), pipeline)
        call = read_call(repository.pipeline, repository.index)
        packages = missing_packages(repository.pipeline, repository.index)
    nets = repository.control_nets
    check_control_nets(call, nets)
    with Client(server) as client:
        if like_id is None:
            adapters = repository.adapters
            parts = parts_of(repository.weights)
            entry = propose(
                call, repository.config, endpoint, adapters=adapters, nets=nets, parts=parts
            )
        else:
            entry = like(like_id, client.get(path_of(ENTRIES, like_id))["entry"], call)
        pool, name, licence = (params[key] for key in ("pool", "name", "licence"))
        entry = complete_entry(entry, repository, pool=pool, display_name=name, licence=licence)
        entry |= {"cpu": {}} if cpu else {}
        entry |= {"packages": packages} if packages else {}
        if not replace and not dry_run:
            _refuse_existing(client, endpoint)
        # The server checks it again, because another operator may add it now.
        only_new = {} if replace else {"if-none-match": "*"}
        stored = client.put(
            path_of(ENTRIES, endpoint), entry, only_new, dry_run="true" if dry_run else None
        )
    if as_json:
        facts = {"pipeline": call.name, "weight_bytes": repository.sizes, "dry_run": dry_run}
        echo(json.dumps({**stored, **facts, "weights_are_here": repository.is_here}))
        return
    for line in _lines(stored, call, repository, dry_run=dry_run):
        echo(line)
    if note := _download_note(server, stored["endpoint_id"], repository):
        echo(f"    download {note}")
    if dry_run:
        echo(json.dumps(stored["entry"], indent=2))


def _parts(assignments: Sequence[str]) -> Sequence[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    for part in assignments:
        name, _, place = part.partition("=")
        if not name.isidentifier() or not place:
            raise click.BadParameter(f"{part!r} is not COMPONENT=PLACE", param_hint="--part")
        parts.append((name, place))
    return parts


def _refuse_existing(client: Client, endpoint: str) -> None:
    page = client.get("/v1/models", endpoint_id=endpoint)
    for model in page["models"]:
        origin = model["darkroom"]["origin"]
        raise Misconfigured(
            f"{endpoint} exists already (from: {origin}). Choose another id, or replace it with "
            "--replace."
        )


def _lines(
    stored: Mapping[str, Any], call: PipelineCall, repository: Repository, *, dry_run: bool
) -> Iterator[str]:
    endpoint, entry = stored["endpoint_id"], stored["entry"]
    done = "would be served" if dry_run else "is served"
    if stored["served"]:
        yield f"{endpoint} {done} by the pool {stored['pool']}."
    else:
        yield f"{endpoint} {'would be' if dry_run else 'is'} listed, but not served."
        yield f"    {stored['reason']}"
    if packages := entry.get("packages"):
        yield f"    warning  {missing_text(packages)}."
    if stored["replaces"]:
        yield f"    replaces the entry of: {', '.join(stored['replaces'])}"
    yield f"    pipeline {call.name}"
    yield f"    family   {entry['family']}, schema {entry['schema']}"
    if fields := entry.get("options", {}).get(INPUTS):
        refused = [name for name, field in fields.items() if field.get("refused")]
        yield f"    fields   {', '.join(name for name in fields if name not in refused)}"
        if refused:
            yield f"    refused  unless at the default: {', '.join(refused)}"
        derived = derive_inputs(call, adapters=repository.adapters)
        for name, why in derived.notable_omissions.items():
            yield f"    without  {name}: {why}"
    sizes = [f"{name} {gigabytes(size)}" for name, size in repository.sizes.items()]
    yield f"    weights  {gigabytes(sum(repository.sizes.values()))}: {', '.join(sizes)}"
    yield f"    licence  {entry.get('licence') or 'not stated: check it before you use the model'}"
    if not entry.get("recipes"):
        yield (
            "    recipes  none: the weights are loaded whole. For a smaller GPU, copy those of a "
            "similar endpoint with --like."
        )


def _download_note(server: Server, endpoint: str, repository: Repository) -> str:
    """Sentence about a download of the weights; empty if none follows."""
    if isinstance(server, Remote):
        if not {"hub", "checkpoint"} & repository.weights.keys():
            return ""
        return (
            "The first request downloads the weights, if they are not there yet; "
            f"`darkroom models pull {endpoint}` on the machine of {server.address} does it now."
        )
    if repository.is_here:
        return ""
    return (
        "The weights are not on this machine. The first request downloads them; "
        f"`{pull_command(server.data_dir, endpoint)}` does it now."
    )


@click.command("delete")
@options.server
@click.argument("endpoint", shell_complete=completion.endpoints)
@options.force
@options.as_json
def delete_command(server: Server, endpoint: str, *, force: bool, as_json: bool) -> None:
    """Delete the entry of ENDPOINT in the database. Weights and finished requests stay."""
    with Client(server) as client:
        answer = client.delete(path_of(ENTRIES, endpoint), force="true" if force else None)
    if as_json:
        echo(json.dumps(answer))
        return
    place = {"file": "the catalogue file", "built-in": "the built-in catalogue"}
    now = place.get(answer["now"])
    echo(f"{endpoint} is deleted." if now is None else f"{endpoint} is now that of {now}.")
    if answer["unfinished"]:
        fate = "queued ones fail when a replica would take them" if now is None else "they continue"
        echo(f"{answer['unfinished']} requests have not ended: {fate}.")


@click.command("check")
@options.server_options
@click.argument("file", required=False, type=click.Path(path_type=Path))
@options.as_json
def check_command(file: Path | None, *, as_json: bool, **params: Any) -> None:
    """Check the catalogue FILE, or the entries of the database.

    A file needs no running Darkroom. The exit status is 1 if there are mistakes.
    """
    if file is not None:
        # Building the schemas is a fifth of the command line's start, and few commands need them.
        from serve_app.catalog.catalog import mistakes_in_file  # noqa: PLC0415

        mistakes, notes = [mistake.message for mistake in mistakes_in_file(file)], []
    else:
        with Client(options.named_server(params)) as client:
            answer = client.get(ENTRIES.path)
        mistakes = [
            f"{entry['endpoint_id']}: {entry['problem']}"
            for entry in answer["entries"]
            if entry["problem"]
        ]
        notes = [
            f"{conflict} is also in the catalogue file; the entry of the database is in force."
            for conflict in answer["conflicts"]
        ]
    if as_json:
        echo(json.dumps({"mistakes": mistakes, "notes": notes}, indent=2))
    else:
        for line in (*mistakes, *notes):
            echo(line)
        echo(f"{counted(len(mistakes), 'mistake')} found.")
    sys.exit(1 if mistakes else 0)
