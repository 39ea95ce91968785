"""Description of a generation inside the file that it made: prompt, model, seed and settings.

It is JSON in ASCII, uncompressed, in the text field for comments that each format has: ``tEXt`` in
PNG, EXIF in JPEG and WebP, tags in MP4, WebM and audio. Files that apps have written have it in
their XMP packet. So any reader of tags shows it, and ``find`` needs to know no format. GIF files
of pipelines have none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

FIRST = "darkroom"
FORMAT = 1
MARK = f'{{"{FIRST}":{FORMAT},'.encode()
"""Beginning of a description. In a string of JSON its quotes are escaped, so no prompt has it."""

MAX_BYTES = 32_000  # a segment of JPEG has 65,533
LEFT_OUT = frozenset({"prompt", "seed", "seeds", "sync_mode"})
"""Fields of an input that are not among the settings."""

_FOR_XML = str.maketrans({"&": "\\u0026", "<": "\\u003c", ">": "\\u003e"})
"""The same JSON without what XML takes for markup."""

_URLS = ("http://", "https://", "data:")


class Searchable(Protocol):
    """Bytes, or a memory map of a file."""

    def find(self, sub: bytes, start: int = ..., /) -> int: ...

    def __getitem__(self, key: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FileMetadata:
    """What made a file.

    ``settings``: the other input fields, without URLs and inlined files, which may be secret or
    large; ``left_out`` names those fields, since a replay would need them. ``request_id`` is empty
    for deterministic requests, whose equal inputs give equal bytes. ``seed``: None if an app has
    not said which it took.
    """

    endpoint: str
    model: str  # source of the weights, with the revision
    seed: int | None
    prompt: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    request_id: str = ""
    demo: bool = False
    left_out: tuple[str, ...] = ()
    """Input fields that are not described as they were: without their URLs, or not at all."""

    @classmethod
    def of_input(
        cls,
        fields: Mapping[str, Any],
        *,
        endpoint: str,
        model: str,
        seed: int | None,
        request_id: str = "",
        demo: bool = False,
        secret: Collection[str] = (),
    ) -> FileMetadata:
        """Describe a generation with the input ``fields`` and the ``seed`` that it used.

        ``secret``: input fields that are not described.
        """
        shown = {name: value for name, value in fields.items() if name not in secret}
        settings = {
            name: kept
            for name, value in shown.items()
            if name not in LEFT_OUT and (kept := _without_urls(value)) is not None
        }
        prompt = shown.get("prompt")
        cut = sorted(
            name
            for name, value in fields.items()
            if name == "seeds" or name in secret or (name not in LEFT_OUT and _has_url(value))
        )
        text = prompt if isinstance(prompt, str) else ""
        return cls(endpoint, model, seed, text, settings, request_id, demo, tuple(cut))

    def text(self) -> str:
        """JSON of at most ``MAX_BYTES`` characters, none of which means anything in XML. Of more,
        settings are left out, then the end of the prompt."""
        shown = self._text(self.prompt, self.settings, self.left_out)
        if len(shown) > MAX_BYTES:
            shown = self._text(self.prompt, {}, ("settings",))
        if len(shown) > MAX_BYTES:
            # At most 12 characters each.
            shown = self._text(self.prompt[: MAX_BYTES // 16], {}, ("prompt", "settings"))
        return shown

    def _text(self, prompt: str, settings: Mapping[str, Any], left_out: Sequence[str]) -> str:
        content = {
            FIRST: FORMAT,
            "prompt": prompt,
            "endpoint": self.endpoint,
            "model": self.model,
            "seed": self.seed,
            "settings": settings,
            "request_id": self.request_id,
            "demo": self.demo,
            "left_out": [*left_out],
        }
        fields = {
            name: value
            for name, value in content.items()
            if value not in ("", {}, []) and value is not False  # the seed 0 is equal to False
        }
        return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).translate(_FOR_XML)


def find(content: Searchable) -> FileMetadata | None:
    """Description in the bytes of a file; None if it has none."""
    place = -1
    while (place := content.find(MARK, place + 1)) >= 0:
        metadata = _parse_metadata(content[place : place + MAX_BYTES])
        if metadata is not None:
            return metadata
    return None


def _parse_metadata(beginning: bytes) -> FileMetadata | None:
    """Description that ``beginning`` begins with; None if it is damaged."""
    try:
        content, _ = json.JSONDecoder().raw_decode(beginning.decode("latin-1"))
        seed = content.get("seed", 0)  # older versions left out 0
        return FileMetadata(
            endpoint=str(content["endpoint"]),
            model=str(content.get("model", "")),
            seed=None if seed is None else int(seed),
            prompt=str(content.get("prompt", "")),
            settings=dict(content.get("settings", {})),
            request_id=str(content.get("request_id", "")),
            demo=bool(content.get("demo", False)),
            left_out=tuple(map(str, content.get("left_out", ()))),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _has_url(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower().startswith(_URLS)
    if isinstance(value, Mapping):
        return any(map(_has_url, cast("Mapping[str, Any]", value).values()))
    return isinstance(value, Sequence) and any(map(_has_url, cast("Sequence[Any]", value)))


def _without_urls(value: Any) -> Any:
    """``value`` without URLs, at any depth; None if nothing is left."""
    if isinstance(value, str):
        return None if value.lower().startswith(_URLS) else value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value).items()
        return {name: kept for name, inner in fields if (kept := _without_urls(inner)) is not None}
    if isinstance(value, Sequence):
        items = cast("Sequence[Any]", value)
        return [kept for item in items if (kept := _without_urls(item)) is not None] or None
    return value if isinstance(value, bool | int | float) else None
