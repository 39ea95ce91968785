"""The share of requests that are copied to another endpoint. ``shadows`` makes the copies."""

from __future__ import annotations

from serve_app.domain.executors.shadow import SHADOW_TENANT, is_chosen
from serve_app.domain.media.draft import DRAFT, FROM_DRAFT
from serve_app.ingress.submission.admission import Submission
from serve_app.settings import NO_LIMITS


async def choose_shadow(submission: Submission) -> None:
    """Choose the endpoint that gets a copy, if the request is one of the share that is copied.

    Never copied is what its client does not want elsewhere, or not kept, and what only one request
    can read.
    """
    services, tenant, options = submission.services, submission.tenant, submission.options
    source, endpoint = submission.entry.source.shadow, submission.entry.endpoint.id
    if source is None or submission.entry.base or tenant in source.except_tenants:
        return
    if options.no_shadow or options.no_fallback:
        return
    if not options.store_io or options.keep_files_s is not None or options.upload_policy:
        return
    if submission.reads_private or DRAFT in submission.input or FROM_DRAFT in submission.input:
        return
    usual = services.files.access.of_new(SHADOW_TENANT, None, outputs=True)
    if submission.access is not None and usual is None:  # the files of a copy have more readers
        return
    if services.config.queue.tenant_limits.get(tenant, NO_LIMITS).storage is not None:
        return  # the files of a copy are in the storage of the installation
    if is_chosen(submission.request_id, endpoint, source.share):
        submission.shadow = source.endpoint
