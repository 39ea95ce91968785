"""Files of ``darkroom batch run``: its input, its results, and what these name."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from serve_app.cli.connection.client import Client
from serve_app.cli.connection.whole_file import cannot_write, whole_file
from serve_app.domain.errors import InvalidInput, Misconfigured

# Input.

METADATA = "darkroom_input"
"""Key in the metadata of a batch: SHA-256 of its lines, by which a repeated command finds it."""
RUN = "/run/"


@dataclass(frozen=True, slots=True)
class BatchSource:
    """Lines to run, as they are uploaded."""

    content: bytes
    url: str
    names: Sequence[str]  # custom ids

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.url.encode() + b"\0" + self.content).hexdigest()


def read_source(file: Path, endpoint: str | None) -> BatchSource:
    """Read a file. ``endpoint``: its lines are inputs of this endpoint; None: they are lines of
    OpenAI's batches. ``InvalidInput`` names the line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} cannot be read as UTF-8 text: {error}.") from None
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise InvalidInput(f"{file} has no lines. Write one JSON object on each line.")
    lines = [_line(n, line, endpoint) for n, line in numbered]
    content = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines) + "\n"
    return BatchSource(
        content.encode(), str(lines[0]["url"]), [str(line.get("custom_id")) for line in lines]
    )


def _line(number: int, text: str, endpoint: str | None) -> dict[str, Any]:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"Line {number} is not JSON ({error}). Write one JSON object on each line, such as "
            '{"prompt": "a red circle"}.'
        ) from None
    if not isinstance(value, dict):
        raise InvalidInput(f"Line {number} is not a JSON object.")
    fields = cast("dict[str, Any]", value)
    whole = {"custom_id", "url", "body"} <= fields.keys()
    if endpoint is None and not whole:
        raise InvalidInput(
            f"Line {number} is not a line of OpenAI's batches: it has no `custom_id`, `url` or "
            "`body`. If the lines are inputs of an endpoint, name it: --endpoint ID"
        )
    if endpoint is None:
        return fields
    if whole:
        raise InvalidInput(
            f"Line {number} is a line of OpenAI's batches, which names its call. Leave out "
            "--endpoint."
        )
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": RUN + endpoint,
        "body": fields,
    }


# Results.

NAMES = {"output_file_id": "output.jsonl", "error_file_id": "errors.jsonl"}
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,10}")
MAX_STEM = 80


def make_folder(folder: Path) -> None:
    """Make a folder for results. ``Misconfigured``: nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Misconfigured(f"The folder {folder} cannot be written to. Name another with --out.")


def save_results(client: Client, batch: Mapping[str, Any], folder: Path) -> int:
    """Write the results of a batch and all files that they name; returns the number of files. A
    file that is there is complete, and is not fetched again."""
    for field, name in NAMES.items():
        if batch[field]:
            _fetch(client, f"/openai/v1/files/{batch[field]}/content", folder / name)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier run
    output = folder / NAMES["output_file_id"]
    if not output.exists():
        return 0
    saved = 0
    with output.open(encoding="utf-8") as lines:
        for line in lines:
            saved += _save_files(client, json.loads(line), folder)
    return saved


def _fetch(client: Client, url: str, target: Path) -> None:
    client.patiently(lambda: client.save(url, target))


def _save_files(client: Client, result: Mapping[str, Any], folder: Path) -> int:
    """Write the files of one line, named by the line's number and its ``custom_id``."""
    _, batch, number = str(result["id"]).rsplit("_", 2)
    stem = _UNSAFE.sub("_", str(result["custom_id"]))[:MAX_STEM]
    head = f"{int(number):05d}-{stem}-{_UNSAFE.sub('_', batch)[:6]}"
    count = 0
    for count, (url, content) in enumerate(_files(result["response"]["body"]), 1):
        if content is not None:
            target = folder / f"{head}-{count}.{_suffix_of(content)}"
            if not target.exists():
                with whole_file(target) as file:
                    file.write(content)
            continue
        suffix = Path(urlsplit(url).path).suffix
        suffix = suffix if _SUFFIX.fullmatch(suffix) else ".mp4"
        target = folder / f"{head}-{count}{suffix}"
        if not target.exists():
            _fetch(client, url, target)
    return count


def _files(body: Any) -> Iterator[tuple[str, bytes | None]]:
    """URL of each file that a result names, or the content of one that it has."""
    if isinstance(body, list):
        for item in cast("list[Any]", body):
            yield from _files(item)
    elif isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        url, encoded = fields.get("url"), fields.get("b64_json")
        if fields.get("object") == "video":
            yield f"/openai/v1/videos/{fields['id']}/content", None
        elif isinstance(encoded, str):
            yield "", base64.b64decode(encoded)
        elif isinstance(url, str):
            yield url, None
        else:
            for item in fields.values():
                yield from _files(item)


def _suffix_of(content: bytes) -> str:
    if content.startswith(b"\xff\xd8"):
        return "jpg"
    return "webp" if content[8:12] == b"WEBP" else "png"
