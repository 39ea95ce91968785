"""The retries of a submit, within those that the installation allows."""

from __future__ import annotations

from serve_app.domain.request import granted_retries
from serve_app.ingress.submission.admission import Submission


async def grant_retries(submission: Submission) -> None:
    """Grant the retries that the client asks for, with a warning where it gets fewer."""
    most = submission.services.config.queue.max_failures
    submission.retries, warnings = granted_retries(submission.options.retries, most)
    submission.warnings += warnings
