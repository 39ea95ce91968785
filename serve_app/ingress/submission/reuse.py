"""Requests that share one outcome, and the digest by which they find each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from serve_app.domain.endpoint import Endpoint
from serve_app.domain.media.draft import DRAFT, FROM_DRAFT
from serve_app.domain.workflows.definition import FAMILY
from serve_app.ingress.services.cpu_executor import in_cpu_thread, pass_over
from serve_app.ingress.submission.admission import Submission
from serve_app.ingress.submission.replay import digest_of


async def share_outcome(submission: Submission) -> None:
    """Set the digest of the requests that may share one outcome, if this one shares any."""
    options, entry, fields = submission.options, submission.entry, submission.input
    # An outcome that will be deleted early, or whose files will, is never shared.
    if not options.store_io or options.keep_files_s is not None or options.upload_policy:
        return
    if entry.endpoint.family == FAMILY:  # its steps may share outcomes, as other requests do
        return
    if DRAFT in fields or FROM_DRAFT in fields:  # a draft belongs to one request, and expires
        return
    if entry.cache if options.cache is None else options.cache:
        # An outcome is shared only where its files have the same readers.
        file_access = "" if submission.access is None else submission.access.id
        submission.reuse_digest = await reuse_digest(
            entry.endpoint, fields, alone=options.deterministic, file_access=file_access
        )


async def reuse_digest(
    endpoint: Endpoint, input: Mapping[str, Any], *, alone: bool, file_access: str = ""
) -> bytes:
    """SHA-256 of everything that decides the outcome; empty if the outcome is not reproducible.

    It is not reproducible without a seed, or if the input has a URL, because the file behind the
    URL may have changed.
    """
    seeded = input.get("seed") is not None or input.get("seeds")
    if not seeded or await pass_over(input, _has_url, input):
        return b""
    # `deterministic` requests must not reuse an outcome that was computed in a batch.
    value = {"endpoint": endpoint.digest, "input": input, "alone": alone}
    if file_access:
        value["file_access"] = file_access
    return await in_cpu_thread(digest_of, value)


def _has_url(value: Any) -> bool:
    if isinstance(value, str):
        return value[:8].lower().startswith(("http://", "https://"))
    if isinstance(value, Mapping):
        return any(_has_url(inner) for inner in cast("Mapping[str, Any]", value).values())
    return isinstance(value, list) and any(_has_url(inner) for inner in cast("list[Any]", value))
