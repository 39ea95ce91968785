"""Private files of a submit: those that its input names, and those that it makes."""

from __future__ import annotations

from serve_app.ingress.http.file_readers import require_readable_inputs
from serve_app.ingress.submission.admission import Submission


async def check_private_inputs(submission: Submission) -> None:
    """Raise ``Forbidden`` for the URL of a private file that the tenant may not read."""
    submission.reads_private = await require_readable_inputs(
        submission.services, submission.tenant, submission.input
    )


async def choose_access(submission: Submission) -> None:
    """Decide who may read its files. In a bucket of the client, the bucket decides."""
    control, options = submission.services.files.access, submission.options
    private = control.defaults.any_private or options.acl is not None
    if private and options.upload_policy is None:
        submission.access = control.of_new(submission.tenant, options.acl, outputs=True)
