"""``darkroom inspect``: what made a file, as the file itself says."""

from __future__ import annotations

import json
import mmap
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from serve_app.cli.connection import options
from serve_app.cli.connection.text import echo, one_line, printable
from serve_app.cli.generation.endpoint_input import FORMAT_FIELDS, SUFFIXES
from serve_app.cli.generation.files import FORMATS
from serve_app.domain.errors import NotFound
from serve_app.domain.media.file_metadata import FileMetadata, find


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@options.as_json
def inspect_command(file: Path, *, as_json: bool) -> None:
    """Show the prompt, model, seed and settings that a generated FILE contains.

    Needs no running Darkroom. Anyone can change what a file says.
    """
    metadata = read_metadata(file)
    if metadata is None:
        raise NotFound(
            f"{file} has no description by Darkroom. GIF files of pipelines have none, nor files "
            "of requests that keep nothing, of an installation with DARKROOM_DESCRIBE_FILES=0, or "
            "that another program saved again."
        )
    if as_json:
        echo(json.dumps(asdict(metadata)))
        return
    for line in lines(metadata, file):
        echo(line)


def read_metadata(file: Path) -> FileMetadata | None:
    """Description in a file of any size; None if it has none."""
    with file.open("rb") as opened:
        try:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return find(content)
        except ValueError:  # an empty file
            return None


def lines(metadata: FileMetadata, file: Path) -> Iterator[str]:
    """Description as text, with the command that repeats it and what that lacks."""
    yield f"prompt    {one_line(metadata.prompt)}"
    yield f"endpoint  {one_line(metadata.endpoint)}{' (demo model)' if metadata.demo else ''}"
    if metadata.model:
        yield f"model     {one_line(metadata.model)}"
    if metadata.seed is not None:
        yield f"seed      {metadata.seed}"
    if metadata.request_id:
        yield f"request   {one_line(metadata.request_id)}"
    if metadata.settings:
        yield "settings"
        width = max(map(len, metadata.settings))
        for name, value in metadata.settings.items():
            yield f"  {one_line(name):<{width}}  {_value_text(value)}"
    missing = _missing(metadata)
    yield f"again     {again(metadata, file, missing)}"
    if missing:
        names = ", ".join(_NAMES.get(key, one_line(key)) for key in missing)
        why = _TOO_LONG if "settings" in missing else _WITHOUT_URLS
        yield f"          Add {names}: the file does not have all of them. {why}"
    if one_line(metadata.prompt) != metadata.prompt.strip():
        yield "          The line breaks of the prompt are left out."


_NAMES = {"settings": "the settings", "prompt": "the rest of the prompt"}
_TOO_LONG = "They were too long for it."
_WITHOUT_URLS = "URLs and inlined files are left out of descriptions."


def _missing(metadata: FileMetadata) -> Sequence[str]:
    """Input fields that the file does not have as they were."""
    missing = {*metadata.left_out}
    # Files of older versions do not say what was left out.
    loras = metadata.settings.get("loras")
    if isinstance(loras, list):
        cut = [isinstance(lora, dict) and "path" not in lora for lora in loras]
        missing |= {"loras"} if any(cut) else set()
    return sorted(missing)


def again(metadata: FileMetadata, file: Path, missing: Sequence[str] = ()) -> str:
    """Command that repeats the generation into a file of the same format, without the input fields
    that are ``missing``."""
    prompt = one_line(metadata.prompt)
    words = ["darkroom", "generate", prompt, "-m", metadata.endpoint]
    words += [] if metadata.seed is None else ["--seed", str(metadata.seed)]
    for name, value in metadata.settings.items():
        if name not in missing:
            words += ["--field", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    formats = [str(metadata.settings.get(field)) for field in FORMAT_FIELDS]
    formats += [FORMATS.get(file.suffix.lower(), "")]
    suffix = next(
        (SUFFIXES[file_format] for file_format in formats if file_format in SUFFIXES), None
    )
    words += ["-o", f"out{suffix}"] if suffix else []
    return printable(shlex.join(words))


def _value_text(value: Any) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
