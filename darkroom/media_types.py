"""Media types of files by the suffixes of their names. Needs no other package."""

from __future__ import annotations

import mimetypes

DEFAULT_MEDIA_TYPE = "application/octet-stream"


def type_of_name(name: str) -> str:
    """Media type of a file by the suffix of its name; empty if it is not known.

    Python knows WebP as a type that is not registered. Without these, it depends on a file of the
    machine, which containers lack.
    """
    return mimetypes.guess_type(name, strict=False)[0] or ""


def suffix_of_type(media_type: str) -> str:
    """Suffix of files of this type; empty if it is not known."""
    return mimetypes.guess_extension(media_type, strict=False) or ""
