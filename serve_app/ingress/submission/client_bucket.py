"""A bucket of the client, to which the files of a submit go: see ``upload_policy``."""

from __future__ import annotations

import httpx2

from serve_app.domain.errors import UploadPolicyFailed
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.upload_policy import UploadPolicy
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.admission import Submission
from serve_app.ingress.submission.upload_policy import policy_error
from serve_app.webhooks.target import is_private


async def check_bucket(submission: Submission) -> None:
    """Raise ``InvalidInput`` if the bucket cannot take the files of this input.

    The check of the address reports mistakes early. Protection comes from the check at each
    connection of a replica.
    """
    services, policy = submission.services, submission.options.upload_policy
    if policy is None:
        return
    if submission.options.acl is not None:
        raise policy_error(
            "cannot be combined with `initial_acl`: your bucket decides who reads the files in it"
        )
    if (expired := policy.refusal(services.clock.now())) is not None:
        raise policy_error("has a policy that has expired", expired)
    media_types = submission.entry.schema.media_types(submission.input)
    if DRAFT_TYPE in media_types:
        raise policy_error("cannot be combined with `draft`: drafts are kept here")
    if submission.input.get("sync_mode") is True:
        raise policy_error(
            "cannot be combined with `sync_mode`: it asks for the files in the response"
        )
    await check_bucket_types(submission)
    await _check_address(services, submission.tenant, policy)


async def check_bucket_types(submission: Submission) -> None:
    """Raise ``InvalidInput`` if the bucket's policy does not allow the files of this input."""
    policy = submission.options.upload_policy
    if policy is None:
        return
    for media_type in submission.entry.schema.media_types(submission.input):
        try:
            policy.form("", media_type)
        except UploadPolicyFailed as error:
            raise policy_error(f"does not allow files of {media_type}", error.message) from None


async def _check_address(services: Services, tenant: str, policy: UploadPolicy) -> None:
    if services.config.limits.allow_private_urls:
        return
    url = httpx2.URL(policy.url)
    if url.scheme != "https":
        raise policy_error("should have an https: URL as its `url`")
    if await is_private(url, tenant, services.webhooks.resolve):
        raise policy_error(
            f"names the host {url.host}, which has a private address. The operator can allow "
            "these with DARKROOM_ALLOW_PRIVATE_URLS"
        )
