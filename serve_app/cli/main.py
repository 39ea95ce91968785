"""The command ``darkroom``. Each command is a few lines over a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from serve_app.cli import doctor, environment, generate, listing, storage_doctor
from serve_app.cli.installation import Installation
from serve_app.domain.errors import DarkroomError
from serve_app.settings import Config, refuse_unknown

Command = TypeVar("Command", bound=Callable[..., Any])


def _data_dir(command: Command) -> Command:
    return click.option(
        "--data-dir",
        "installation",
        type=click.Path(file_okay=True, path_type=Path),
        default=None,
        callback=lambda _context, _parameter, value: _installation(value),
        help="Where Darkroom keeps its things. Default: DARKROOM_DATA_DIR, or ~/.darkroom.",
    )(command)


def _installation(data_dir: Path | None) -> Installation:
    refuse_unknown()
    config = Config() if data_dir is None else Config(data_dir=data_dir)
    return Installation(config.data_dir)


class _Sentences(click.Group):
    """Shows Darkroom's own errors as a sentence; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DarkroomError as error:
            click.echo(f"darkroom: {error.message}", err=True)
            sys.exit(1)


@click.group(cls=_Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="darkroom-serve", prog_name="darkroom")
def main() -> None:
    """A self-hosted cluster for generative media that speaks fal's protocol."""


@main.command("serve")
@_data_dir
@click.option("--host", default=None, help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Default: 8000.")
@click.option("--demo", is_flag=True, help="Serve the demo models, also on a machine with a GPU.")
@click.option(
    "--sample", is_flag=True, help="Make one picture once it answers, and say where it is."
)
def serve_command(
    installation: Installation, host: str | None, port: int | None, *, demo: bool, sample: bool
) -> None:
    """Start everything on this machine and serve until Ctrl-C."""
    # Ray reads its flags when it is imported, so nothing on this path may import it early.
    from serve_app.cli.sample import greet  # noqa: PLC0415
    from serve_app.cli.serve import Server  # noqa: PLC0415

    config = Config(data_dir=installation.data_dir)
    server = Server(installation, host or config.host, port or config.port)
    server.check()
    settings = {"demo": True} if demo else {}
    server.run(
        settings, after_start=lambda s: greet(installation, s.url, s.console.say, sample=sample)
    )


@main.command("env")
@_data_dir
def env_command(installation: Installation) -> None:
    """Print what points fal's clients at this Darkroom."""
    click.echo(environment.lines(installation))


@main.command("generate")
@_data_dir
@click.argument("prompt")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="out.png")
@click.option("-m", "--model", default="fal-ai/flux/schnell", show_default=True)
@click.option("--seed", type=int, default=None)
@click.option("--steps", type=int, default=None)
@click.option("--size", default=None, help="Such as square, landscape_4_3, or 512x512.")
@click.option("--field", "fields", multiple=True, help="Any other input field: NAME=JSON.")
def generate_command(installation: Installation, prompt: str, output: Path, **options: Any) -> None:
    """Make a picture from PROMPT."""
    generate.run(installation, prompt, output, **options)


@main.command("models")
@_data_dir
def models_command(installation: Installation) -> None:
    """List the endpoints that this Darkroom serves."""
    listing.models(installation)


@main.command("status")
@_data_dir
def status_command(installation: Installation) -> None:
    """Show whether Darkroom is ready, its pools and its queue."""
    listing.status(installation)


@main.command("doctor")
@_data_dir
@click.argument("part", type=click.Choice(["storage"]), required=False)
def doctor_command(installation: Installation, part: str | None) -> None:
    """Say what is wrong with this machine or installation, in sentences.

    With `storage`, try all that Darkroom does with the storage of the artifacts.
    """
    examine = storage_doctor.examine if part else doctor.examine
    sys.exit(examine(installation))


@main.group("requests")
def requests_group() -> None:
    """Look at requests and cancel them."""


@requests_group.command("list")
@_data_dir
@click.option("--state", "states", multiple=True, help="Only these states; may be repeated.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
def requests_list(installation: Installation, states: tuple[str, ...], limit: int) -> None:
    """List the latest requests, newest first."""
    listing.requests(installation, states, limit)


@requests_group.command("show")
@_data_dir
@click.argument("request_id")
def requests_show(installation: Installation, request_id: str) -> None:
    """Show one request with its log."""
    listing.request(installation, request_id)


@requests_group.command("cancel")
@_data_dir
@click.argument("request_id")
def requests_cancel(installation: Installation, request_id: str) -> None:
    """Cancel a queued or running request."""
    listing.cancel(installation, request_id)
