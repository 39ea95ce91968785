"""Files that the operator requires to be signed: their formats need a place for a signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.domain.artifact import EXTENSIONS
from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.marking import SIGNED_TYPES, MarkPolicy
from serve_app.ingress.submission.admission import Submission


async def require_unmarked_files(submission: Submission) -> None:
    """Raise ``Unsupported`` if files must be marked, which messages of an app are not."""
    if submission.services.config.provenance.marking.of(submission.tenant) is MarkPolicy.REQUIRED:
        raise Unsupported(
            "The operator requires a mark on all generated files, and messages of an app's session "
            "cannot be marked. Submit a request instead."
        )


async def require_signable(submission: Submission) -> None:
    """Raise ``InvalidInput`` or ``Unsupported`` if a file must be signed and cannot be."""
    settings, fields = submission.services.config.provenance, submission.input
    required = settings.marking.of(submission.tenant) is MarkPolicy.REQUIRED
    if settings.sign_files == "off" or not required:
        return
    types = {*submission.entry.schema.media_types(fields)} or _named_types(fields)
    refused = sorted(types - SIGNED_TYPES - {DRAFT_TYPE})
    if refused:
        message = (
            f"files of {', '.join(refused)} cannot be signed, and the operator requires signed "
            "files: choose another format"
        )
        if "output_format" in fields:
            raise InvalidInput.of_field("output_format", message, "feature_not_supported")
        raise Unsupported(f"{message[0].upper()}{message[1:]}.")


def _named_types(input: Mapping[str, Any]) -> set[str]:
    """Media type of the format that an input of an app names. What types its files have in fact is
    known when they are there, and is checked by the replica."""
    named = input.get("output_format")
    return {kind for kind, suffix in EXTENSIONS.items() if named in (kind, suffix)}
