"""fal's header with a presigned POST policy: the files of a request go to its client's bucket."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote

import httpx2

from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.media.upload_policy import (
    CONTENT_TYPE,
    FILE_NAME,
    UPLOAD_POLICY_HEADER,
    Conditions,
    UploadPolicy,
)

MAX_BYTES = 16 * 1024  # of the header
MAX_URL_LENGTH = 2048
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xff]")


def parse_upload_policy(value: bytes) -> UploadPolicy:
    """Read the header. ``InvalidInput`` names it, without its value, which has a signature."""
    if len(value) > MAX_BYTES:
        raise policy_error(f"should have at most {MAX_BYTES} bytes")
    try:
        read: Any = json.loads(value)
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise policy_error('should be JSON like {"url": "https://…", "fields": {"key": "…", …}}')
    policy = cast("dict[str, Any]", read)
    url, fields = policy.get("url"), policy.get("fields")
    if not isinstance(url, str) or not isinstance(fields, dict):
        raise policy_error("should have a text `url` and an object `fields`")
    named = _texts(cast("dict[str, Any]", fields))
    _check_key(named)
    try:
        conditions = Conditions.of(named.get("policy", ""))
    except ValueError:
        raise policy_error(
            "should have `fields.policy` as S3 signs it: base64 of JSON with `expiration` and "
            "`conditions`"
        ) from None
    begins = named["key"].partition(FILE_NAME)[0]
    if "key" in conditions.exact or not begins.startswith(conditions.prefixes.get("key", "")):
        raise policy_error(
            f"does not allow keys of its own `fields.key`. Sign it for a key that ends with "
            f"{FILE_NAME}"
        )
    return UploadPolicy(_checked_url(url), named)


def _texts(fields: Mapping[str, Any]) -> dict[str, str]:
    for name, value in fields.items():
        if not isinstance(value, str):
            raise policy_error(f"should have only texts in `fields`, and {name[:50]!r} is none")
        if '"' in name or not name.isprintable() or not _encodable(name) or not _encodable(value):
            raise policy_error(f"has a field with the invalid name or value {name[:50]!a}")
    for reserved in ("key", "policy", CONTENT_TYPE, "file"):
        same = [name for name in fields if name.strip().lower() == reserved]
        if len(same) > 1 or (reserved == "file" and same):
            raise policy_error(f"should not have the fields {sorted(same)} at once")
    return cast("dict[str, str]", dict(fields))


def _encodable(text: str) -> bool:
    return text.isprintable() and not any("\ud800" <= char <= "\udfff" for char in text)


def _check_key(fields: Mapping[str, str]) -> None:
    key = fields.get("key", "")
    if FILE_NAME not in key:
        raise policy_error(
            f"should have {FILE_NAME} in `fields.key`, since a request has several files"
        )
    if key.startswith("/") or not {".", ".."}.isdisjoint(key.split("/")):
        raise policy_error("should have no `.`, `..` or leading slash in `fields.key`")


def _checked_url(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):
        parsed = httpx2.URL("")
    if len(url) > MAX_URL_LENGTH or _UNPRINTABLE.search(url) or not url.isascii():
        raise policy_error(f"should have a `url` in ASCII of at most {MAX_URL_LENGTH} characters")
    if parsed.scheme not in ("https", "http") or not parsed.host:
        raise policy_error("should have the https: URL of a bucket as its `url`")
    if parsed.userinfo or "?" in url or "#" in url:
        raise policy_error("should have a `url` without credentials, query and fragment")
    if not {".", ".."}.isdisjoint(unquote(parsed.raw_path.decode("ascii")).split("/")):
        raise policy_error("should have a `url` without `.` and `..`")
    return url


def policy_error(what: str, sentence: str = "") -> InvalidInput:
    """Error of the header. ``sentence``: the message, if it is not the header with ``what``."""
    name = UPLOAD_POLICY_HEADER
    problem = FieldProblem(("header", name), f"{name} {what}", "value_error")
    return InvalidInput(sentence or f"The header {name} {what}.", (problem,))
