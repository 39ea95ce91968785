"""A submit on its way to the queue: what its client has sent, and what the steps have found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from serve_app.catalog.catalog import CatalogEntry
from serve_app.catalog.work import expected_quantities, layers_of, work_of
from serve_app.domain.billing.price import NOTHING, Price
from serve_app.domain.executors.fallback import Fallback
from serve_app.domain.media.file_access import FileAccess
from serve_app.domain.request import NewRequest, Retries
from serve_app.domain.workflows.definition import FAMILY
from serve_app.ingress.services.services import Services
from serve_app.ingress.submission.options import SubmitOptions


@dataclass(slots=True)
class Submission:
    """Input for an endpoint, from any door. Steps set the fields below ``only_estimated``."""

    services: Services
    tenant: str
    entry: CatalogEntry
    body: object
    options: SubmitOptions = field(default_factory=SubmitOptions)
    request_id: str = ""
    only_estimated: bool = False  # it will not be stored

    beneath: Mapping[str, Any] | None = None  # input of the draft that it goes on from
    draft_key: str | None = None  # of that draft, in storage
    left: float = 1.0  # share of the steps that are left after it
    input: dict[str, Any] = field(default_factory=dict[str, Any])  # with its defaults
    warnings: tuple[str, ...] = ()  # for the request's own log
    pool: str = ""
    price: Price | None = None  # None: it costs nothing
    needed: Mapping[str, Decimal] = field(default_factory=dict[str, Decimal])  # see NewRequest
    reads_private: bool = False  # the input names a private file
    access: FileAccess | None = None  # of its files; None: they are public
    retries: Retries | None = None  # None: the installation's default
    fallback: Fallback | None = None
    shadow: str = ""  # endpoint that gets a copy
    reuse_digest: bytes = b""  # of requests with the same outcome; empty: it is not shared
    body_digest: bytes = b""  # of a repeat; empty: none is looked for

    def request(self) -> NewRequest:
        """The request, after its last step."""
        entry, options, price = self.entry, self.options, self.price
        return NewRequest(
            id=self.request_id,
            tenant=self.tenant,
            endpoint=entry.endpoint.id,
            endpoint_digest=entry.endpoint.digest,
            pool=self.pool,
            input=self.input,
            priority=options.priority,
            start_within_s=options.start_within_s,
            end_within_s=options.end_within_s,
            work=work_of(self.input) * layers_of(entry.endpoint, self.input) * self.left,
            alone=options.deterministic,
            previews=options.previews and self.services.config.models.previews,
            warnings=self.warnings,
            retries=self.retries,
            idempotency_key=options.idempotency_key,
            replay_key=options.replay_key,
            store_io=options.store_io,
            keep_files_s=options.keep_files_s,
            file_access=self.access,
            upload_policy=options.upload_policy,
            reuse_digest=self.reuse_digest,
            body_digest=self.body_digest,
            webhook=options.webhook,
            trace=options.trace,
            draft_key=self.draft_key,
            key_id=options.key_id,
            price=price,
            needed=self.needed,
            expected=NOTHING
            if price is None
            else expected_quantities(entry.endpoint, self.input, self.left),
            fallback=self.fallback,
            shadow=self.shadow,
            steps_stay=entry.endpoint.family == FAMILY
            and (options.no_fallback or options.max_cost is not None),
            requested_model=options.requested_model,
        )


Step = Callable[[Submission], Awaitable[None]]
"""One rule of the admission: it reads the submission, changes it, or raises its refusal."""


async def admit(submission: Submission, steps: Iterable[Step]) -> Submission:
    """Take the steps in their order. Raises the refusal of the first that refuses."""
    for step in steps:
        await step(submission)
    return submission
