"""Input schema of an endpoint: the file formats that it writes, and the fields that it has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serve_app.cli.connection.client import Client
from serve_app.cli.generation.files import FORMATS, TEXT_FORMAT, MediaKind, format_of
from serve_app.cli.generation.options import GenerateOptions
from serve_app.domain.errors import InvalidInput

FORMAT_FIELDS = ("output_format", "format")  # fal's endpoints have one or the other
PREFERRED = ("png", "mp4", "wav", "glb", TEXT_FORMAT)
"""Formats that are used if the user names no file: those that lose nothing or play everywhere."""
BY_KIND = dict(zip(MediaKind, PREFERRED, strict=True))
SUFFIXES = {name: suffix for suffix, name in reversed(FORMATS.items())}


@dataclass(frozen=True, slots=True)
class EndpointInput:
    """Endpoint with the schemas of its input fields.

    ``fields`` is empty if the endpoint accepts any object. ``category``: such as text-to-image.
    """

    endpoint: str
    category: str
    fields: Mapping[str, Mapping[str, Any]]

    @property
    def format_field(self) -> str | None:
        """Field that selects the format of the output; None if the input has no such field."""
        if not self.fields:
            return FORMAT_FIELDS[0]
        return next((name for name in FORMAT_FIELDS if name in self.fields), None)

    @property
    def formats(self) -> Sequence[str]:
        """Formats that the output can have; empty if the schema names none."""
        schema = self.fields.get(self.format_field or "", {})
        return tuple(str(value) for value in schema.get("enum", ()))

    def default_output(self, output_format: str | None = None) -> Path:
        """File for the output if the user names none: ``out`` with the suffix of its kind, or of
        the ``output_format`` format if that is known."""
        format_name = next(
            (candidate for candidate in PREFERRED if candidate in self.formats), None
        )
        if output_format in SUFFIXES:
            format_name = output_format
        if format_name is None:
            kind = self.category.rpartition("-")[2]
            format_name = BY_KIND[MediaKind(kind)] if kind in BY_KIND else PREFERRED[0]
        return Path("out").with_suffix(SUFFIXES[format_name])

    def check_format(self, output: Path) -> None:
        """Raise ``InvalidInput`` if the endpoint does not write the format of ``output``."""
        if self.formats and format_of(output) not in self.formats:
            suffixes = " or ".join(
                SUFFIXES[media_type] for media_type in self.formats if media_type in SUFFIXES
            )
            raise InvalidInput(
                f"{self.endpoint} does not write {output.suffix} files. Name a file with "
                f"{suffixes}."
            )

    def in_its_fields(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """``body`` with its image in a list, where the endpoint takes several."""
        own = dict(body)
        if "image_urls" in self.fields and "image_url" not in self.fields and "image_url" in own:
            own["image_urls"] = [own.pop("image_url")]
        return own

    def check_fields(self, names: Iterable[str], options: GenerateOptions) -> None:
        """Raise ``InvalidInput`` for a field that the endpoint lacks: it would ignore it."""
        for name in names if self.fields else ():
            if name in self.fields:
                continue
            near = difflib.get_close_matches(name, self.fields, n=1)
            rest = (
                f"Did you mean `{near[0]}`?" if near else f"Its inputs: {', '.join(self.fields)}."
            )
            raise InvalidInput(
                f"{options.option_of(name)}: {self.endpoint} has no such input. {rest}"
            )


def look_up(client: Client, endpoint: str) -> EndpointInput:
    """Input of an endpoint that the server lists. One that it does not list has no fields: the
    response to the request says so."""
    listed = client.get("/v1/models", endpoint_id=endpoint, expand="openapi-3.0")["models"]
    return read_description(listed[0]) if listed else EndpointInput(endpoint, "", {})


def draft_endpoint(client: Client, draft_id: str) -> str:
    """Endpoint that made a draft. Raises ``ApiFailure`` if there is no such draft."""
    return str(client.get(f"/v1/drafts/{quote(draft_id, safe='')}")["endpoint_id"])


def read_description(model: Mapping[str, Any]) -> EndpointInput:
    """Input of a model, as ``/v1/models`` lists it with ``expand``."""
    endpoint, document = model["endpoint_id"], model["openapi"]
    body = document["paths"][f"/{endpoint}"]["post"]["requestBody"]
    reference: str = body["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][reference.rpartition("/")[2]]
    return EndpointInput(endpoint, model["metadata"]["category"], schema.get("properties") or {})
