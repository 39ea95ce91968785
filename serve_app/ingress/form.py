"""Reading a form with files (``multipart/form-data``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.body import read_body, refuse_unstorable

MULTIPART = "multipart/form-data"
MOST_FIELDS = 128


@dataclass(frozen=True, slots=True)
class FormFile:
    """One file of a form."""

    name: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """Texts by field, the last of each; files by field, in order. ``image[]`` is ``image``."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[FormFile]] = field(default_factory=dict)


def is_form(request: HttpRequest) -> bool:
    return request.headers.get("content-type", "").lower().startswith(MULTIPART)


async def read_form(request: HttpRequest, max_bytes: int, most_files: int) -> Form:
    """``TooLarge`` past ``max_bytes`` in all; ``InvalidInput`` when it is no form."""
    raw = await read_body(request, max_bytes)
    found = Form()
    parser = MultiPartParser(
        Headers(scope=request.scope),
        _at_once(raw),
        max_files=most_files,
        max_fields=MOST_FIELDS,
        max_part_size=max_bytes,
    )
    parser.spool_max_size = max_bytes + 1  # it is in memory already; a file would be one copy more
    try:
        parsed = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        why = getattr(error, "message", None) or "it is not well formed"
        raise InvalidInput(f"The body is not a valid form: {why}") from None
    try:
        for name, value in parsed.multi_items():
            plain = name.removesuffix("[]")
            if isinstance(value, UploadFile):
                media_type = value.content_type or "application/octet-stream"
                file = FormFile(value.filename or plain, media_type, await value.read())
                found.files.setdefault(plain, []).append(file)
            else:
                found.texts[plain] = value
    finally:
        await parsed.close()
    refuse_unstorable(found.texts, ("body",))
    return found


async def _at_once(raw: bytes) -> AsyncGenerator[bytes, None]:
    yield raw
