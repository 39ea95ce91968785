"""Places of files in the outputs of providers, whose other texts may be URLs too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from darkroom.media_types import type_of_name
from deployments.executors.base import FILE_MARK
from deployments.executors.hosted.calls import HostedFile
from deployments.executors.places import Place, Schema, file_places
from serve_app.domain.media.data_uri import begins_as_file, is_data_uri

DELIVERY = "replicate.delivery"
"""Host of Replicate's output files, and end of the names of others."""

FAL_FACTS = ("content_type", "file_name", "file_size", "width", "height")
"""Fields of which an object with the URL of a file has one, at fal."""


def replicate_files(value: Any, schema: Schema, *, is_own: Callable[[object], bool]) -> Any:
    """An output of Replicate with ``HostedFile`` in place of files.

    A schema with fields says which texts are files: those with ``x-darkroom-file`` or the format
    ``uri``, as Replicate's own schemas write it. Without one, they are URLs of the provider's
    servers, and those that end as files do.
    """
    if has_fields(schema):
        places = set(file_places(value, _mark_uris(schema)))
        return _replace_urls(value, lambda place, text: place in places and _is_url(text))
    return _replace_urls(
        value,
        lambda _, text: (
            _is_url(text) and (is_own(text) or _is_delivery(text) or _ends_as_file(text))
        ),
    )


def fal_files(value: Any, schema: Schema) -> Any:
    """An output of fal with ``HostedFile`` in place of objects with the URL of a file. Objects
    that only link to something, such as results of a search, stay as they are."""
    return _with_objects(value, (), set(file_places(value, _mark_uris(schema))))


def has_fields(schema: Schema) -> bool:
    """Check that a schema says which fields an output has."""
    return bool(schema.get("properties") or schema.get("$ref") or schema.get("allOf"))


def _mark_uris(schema: Any) -> Any:
    """Schema whose texts of the format ``uri`` are files."""
    if isinstance(schema, Mapping):
        marked = {name: _mark_uris(inner) for name, inner in cast("Schema", schema).items()}
        return {**marked, FILE_MARK: "file"} if marked.get("format") == "uri" else marked
    return [_mark_uris(item) for item in schema] if isinstance(schema, list) else schema


def _replace_urls(value: Any, is_file: Callable[[Place, str], bool], place: Place = ()) -> Any:
    if isinstance(value, str):
        return HostedFile(value, raw=value) if is_file(place, value) else value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return {
            name: _replace_urls(inner, is_file, (*place, name)) for name, inner in fields.items()
        }
    if isinstance(value, list):
        listed = enumerate(cast("list[Any]", value))
        return [_replace_urls(item, is_file, (*place, number)) for number, item in listed]
    return value


def _with_objects(value: Any, place: Place, marked: set[Place]) -> Any:
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        url = fields.get("url")
        if isinstance(url, str) and _is_url(url):
            facts = {name: fact for name, fact in fields.items() if name != "content_type"}
            says_more = any(fields.get(name) is not None for name in FAL_FACTS)
            if (*place, "url") in marked or says_more or _ends_as_file(url):
                media_type = fields.get("content_type")
                known = media_type if isinstance(media_type, str) else ""
                return HostedFile(url, media_type=known, facts=facts, raw=value)
        return {
            name: _with_objects(inner, (*place, name), marked) for name, inner in fields.items()
        }
    if isinstance(value, list):
        listed = enumerate(cast("list[Any]", value))
        return [_with_objects(item, (*place, number), marked) for number, item in listed]
    return value


def _is_url(text: str) -> bool:
    """Check that a whole text is a URL: what a language model writes may begin with one."""
    if is_data_uri(text):
        return begins_as_file(text)
    if not text.startswith(("https://", "http://")) or any(
        character.isspace() for character in text
    ):
        return False
    try:
        return bool(urlsplit(text).hostname)
    except ValueError:
        return False


def _is_delivery(text: str) -> bool:
    host = urlsplit(text).hostname or ""
    return host == DELIVERY or host.endswith(f".{DELIVERY}")


def _ends_as_file(text: str) -> bool:
    kind = type_of_name(urlsplit(text).path)
    return is_data_uri(text) or kind.startswith(("image/", "video/", "audio/", "model/"))
