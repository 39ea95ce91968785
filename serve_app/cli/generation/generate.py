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
    "endpoint. If it exists, the new one gets a number.",
)
@click.option("--overwrite", is_flag=True, help="Replace --output if it exists.")
@click.option(
    "-m",
    "--model",
    default=None,
    shell_complete=completion.endpoints,
    help=f"Endpoint id. Default: {FROM_PROMPT}, or an endpoint that accepts your --image.",
)
@click.option("--seed", type=int, default=None)
@click.option("--steps", type=int, default=None)
@click.option(
    "--size",
    default=None,
    help="Image size, such as square, landscape_4_3, 512x512, or auto: the shape of --image.",
)
@click.option("-n", "--count", type=int, default=None, help="Number of images.")
@click.option(
    "--image", "images", multiple=True, help="Input image: a file or a URL. Repeat it for several."
)
@click.option("--mask", default=None, help="Mask for --image: white areas are repainted.")
@click.option("--strength", type=float, default=None, help="How much to change --image, 0 to 1.")
@click.option("--draft", type=int, default=None, help="Make so many drafts, with previews.")
@click.option(
    "--until", type=float, default=None, help="Share of the steps that --draft makes, 0.05 to 0.9."
)
@click.option(
    "--from-draft",
    metavar="ID",
    default=None,
    help="Finish a draft, with the PROMPT and options that are given and its own for the others.",
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
    help="Any other input field: NAME=JSON or NAME=@FILE.",
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
    """Generate an image, a video or audio from PROMPT, or from standard input if it is -.

    The model, or else the suffix of --output, selects which. Ctrl-C cancels the request. Only
    --from-draft needs no PROMPT.
    """
    asked = GenerateOptions(**wish)
    command.run(
        server,
        asked,
        output,
        preview=preview,
        overwrite=overwrite,
        as_json=as_json,
        show=show,
    )
