"""The operator's safety policy for inputs, and for the registered weights that they name."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

from serve_app.catalog.catalog import CatalogEntry
from serve_app.domain.errors import InvalidInput, Unsupported
from serve_app.ingress.services.cpu_executor import pass_over
from serve_app.ingress.submission.admission import Submission


async def check_policy(submission: Submission) -> None:
    """Raise ``InvalidInput`` if the policy refuses the input, or all files that it makes."""
    entry = submission.entry
    if not submission.services.safety.rules:
        return
    with _refusals_noted(submission):
        await pass_over(submission.input, check_rules, submission)
    if entry.base:
        check_weights(submission, entry.repository, entry.digests, "endpoint")


def check_rules(submission: Submission) -> None:
    """Raise ``InvalidInput`` if a rule refuses the input, or all files that it makes."""
    safety, entry, tenant = submission.services.safety, submission.entry, submission.tenant
    for endpoint in _ruled_as(entry):
        safety.check(tenant, endpoint, submission.input)
        safety.check_types(tenant, endpoint, entry.schema.media_types(submission.input))


async def require_unchecked_files(submission: Submission) -> None:
    """Raise ``Unsupported`` if a rule checks the files, which frames of a session are not."""
    safety, tenant = submission.services.safety, submission.tenant
    if any(safety.outputs(tenant, endpoint) for endpoint in _ruled_as(submission.entry)):
        raise Unsupported(
            "The safety policy of this installation checks files, and frames of sessions cannot "
            "be checked. Submit a request instead."
        )


def check_weights(
    submission: Submission, repository: str, digests: Iterable[str], field: str
) -> None:
    """Raise ``InvalidInput``, which names ``field``, if the policy refuses registered weights."""
    with _refusals_noted(submission):
        for endpoint in _ruled_as(submission.entry):
            submission.services.safety.check_weights(
                submission.tenant, endpoint, repository, digests, field
            )


def _ruled_as(entry: CatalogEntry) -> tuple[str, ...]:
    """Endpoints whose rules hold: a private one is also under those of the one that it is like."""
    return (entry.endpoint.id, entry.base) if entry.base else (entry.endpoint.id,)


@contextmanager
def _refusals_noted(submission: Submission) -> Generator[None]:
    """Count a refusal and write it to the audit log."""
    try:
        yield
    except InvalidInput as error:
        services = submission.services
        services.metrics.safety_decided("input", "block")
        noted = services.audit.record_refused_input(
            submission.tenant, submission.entry.endpoint.id, error.message
        )
        services.background.start_detached(noted, "audit of a refused input")
        raise
