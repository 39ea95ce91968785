"""``darkroom generate``: its arguments and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import completion, options
from serve_app.cli.connection.server import Server
from serve_app.cli.generation import command
from serve_app.cli.generation.options import FROM_PROMPT, GenerateOptions


@click.command("generate")
@options.server
@click.argument("prompt", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=None,
    help="File to write; - is standard output. Default: out.png, out.mp4 or out.wav, by the "
    "endpoint, with a number if it exists.",
)
@click.option("--overwrite", is_flag=True, help="Replace --output if it exists.")
@click.option(
    "-m",
    "--model",
    metavar="ENDPOINT",
    default=None,
    shell_complete=completion.endpoints,
    help=f"Endpoint that generates. Default: {FROM_PROMPT}, or one that takes your --image.",
)
@click.option("--seed", type=int, help="Seed of the noise. Default: a random one.")
@click.option(
    "--steps", type=int, metavar="NUMBER", help="Steps of each generation. Default: the endpoint's."
)
@click.option(
    "--size",
    default=None,
    help="Image size, such as square, landscape_4_3, 512x512, or auto: the shape of --image.",
)
@click.option("-n", "--count", type=int, default=None, help="Number of images.")
@click.option(
    "--image",
    "images",
    metavar="FILE|URL",
    multiple=True,
    help="Input image: a file or a URL. May be repeated.",
)
@click.option(
    "--mask", metavar="FILE|URL", default=None, help="Mask for --image: white areas are repainted."
)
@click.option("--strength", type=float, default=None, help="How much to change --image, 0 to 1.")
@click.option("--draft", type=int, default=None, help="Make this many drafts, with previews.")
@click.option(
    "--until", type=float, default=None, help="Share of the steps that --draft does, 0.05 to 0.9."
)
@click.option(
    "--from-draft",
    metavar="ID",
    default=None,
    help="Finish this draft. It keeps what PROMPT and the options do not change.",
)
@click.option(
    "--new-noise",
    type=float,
    default=None,
    help="Share of the noise of --from-draft to replace, 0 to 1, for a variation.",
)
@click.option(
    "--field",
    "--set",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other input field, as NAME=JSON or NAME=@FILE. May be repeated.",
)
@click.option(
    "--preview",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write a JPEG preview to this file and update it while the request runs.",
)
@click.option("--open", "show", is_flag=True, help="Open the result in a viewer.")
@options.as_json
def generate_command(
    server: Server,
    output: Path | None,
    preview: Path | None,
    *,
    overwrite: bool,
    as_json: bool,
    show: bool,
    **wish: Any,
) -> None:
    """Generate an image, a video or audio from PROMPT.

    PROMPT - is read from standard input. The model, or else the suffix of --output, decides what is
    generated. Ctrl-C cancels the request. Only with --from-draft, PROMPT may be left out.
    """
    settings = GenerateOptions(**wish)
    command.run(
        server,
        settings,
        output,
        preview=preview,
        overwrite=overwrite,
        as_json=as_json,
        show=show,
    )
