"""Drafts of a request, and the draft that a request goes on from."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deployments.families.base import GenerationResult, Product
from deployments.replica.resources import ReplicaResources
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import ForkRefused, InvalidInput, Unsupported
from serve_app.domain.lease import Lease
from serve_app.domain.media.draft import (
    DRAFT,
    DRAFT_TYPE,
    DRAFTS,
    FROM_DRAFT,
    NEW_NOISE,
    NOISE_SEED,
)

if TYPE_CHECKING:  # they import torch
    from deployments.engine.drafting.draft import Draft, DraftPoint
    from deployments.engine.drafting.fork import Fork


@dataclass(frozen=True, slots=True)
class GenerationStart:
    """How a generation begins, and where it ends as a draft."""

    snapshot: bytes | None = None  # of the engine
    point: DraftPoint | None = None
    fork: Fork | None = None

    @property
    def earlier_steps(self) -> float:
        """Steps that it does not compute; infinite if it computes none."""
        if self.fork is None:
            return 0
        return math.inf if self.fork.preview else self.fork.draft.step

    def planned_steps(self) -> Callable[[int], int] | None:
        """Function from the steps of the whole generation to those of the draft; None: all."""
        return None if self.point is None else self.point.step_of

    def refusal(self, error: ForkRefused | Unsupported) -> InvalidInput:
        """The error of the input field that asks for what is refused."""
        field = FROM_DRAFT if self.fork is not None and not self.fork.preview else DRAFT
        return InvalidInput.of_field(field, error.message, "unprocessable_draft")


async def request_start(lease: Lease, seed: int, resources: ReplicaResources) -> GenerationStart:
    """Start of each generation of a request. Fetches the draft that it goes on from.

    ``seed``: for new noise without one. Raises ``InvalidInput`` if the draft cannot be fetched.
    """
    requested = lease.input
    if (drafting := requested.get(DRAFT)) is not None:
        return GenerationStart(point=_point(drafting))
    if lease.draft_url is None:
        return GenerationStart()
    body = await resources.snapshot_fetcher.fetch(lease.draft_url, FROM_DRAFT, lease.files_url)
    try:
        return await asyncio.get_running_loop().run_in_executor(
            resources.encoders, _fork_start, body, requested, seed
        )
    except ForkRefused as error:
        raise InvalidInput.of_field(FROM_DRAFT, error.message, "unprocessable_draft") from error


def _point(drafting: Mapping[str, Any]) -> DraftPoint:
    from deployments.engine.drafting.draft import DraftPoint  # noqa: PLC0415

    if (noise := drafting.get("noise")) is not None:
        return DraftPoint(noise=float(noise))
    return DraftPoint(share=float(drafting["until"]))


def _fork_start(body: bytes, requested: Mapping[str, Any], seed: int) -> GenerationStart:
    from deployments.engine.drafting.draft import Draft  # noqa: PLC0415
    from deployments.engine.drafting.fork import Fork  # noqa: PLC0415

    own = requested.get(NOISE_SEED)
    new_noise = float(requested.get(NEW_NOISE) or 0.0)
    noise_seed = seed if own is None else int(own)
    return GenerationStart(fork=Fork(Draft.of_bytes(body), new_noise, noise_seed))


@dataclass(frozen=True, slots=True)
class MadeDraft:
    """A draft that the engine has made, which is delivered with its preview."""

    draft: Draft
    made: GenerationResult  # of the draft
    seed: int

    @property
    def preview(self) -> GenerationStart:
        """Start of the generation that shows it."""
        from deployments.engine.drafting.fork import Fork  # noqa: PLC0415

        return GenerationStart(fork=Fork(self.draft, preview=True))

    def of(self, preview: GenerationResult) -> GenerationResult:
        """Result of the preview, with the time and the steps of the draft."""
        inference_s = self.made.inference_s + preview.inference_s
        return replace(preview, inference_s=inference_s, steps=self.made.steps)

    def added_to(self, product: Product, ticket: UploadTicket) -> Product:
        """``product`` of the preview, with the draft's facts and file. Takes a while."""
        draft = self.draft
        noise = draft.noise
        facts = {
            "artifact": ticket.key,  # follows the file when another attempt delivers it
            "id": secrets.token_urlsafe(16),
            "seed": self.seed,
            "step": draft.step,
            "steps": draft.steps,
            "noise": None if noise is None else round(noise, 4),
        }
        file = MediaFile(ticket, draft.to_bytes())
        output = {**product.output, DRAFTS: [facts]}
        return replace(product, output=output, files=[*product.files, file])


def media_tickets(tickets: Sequence[UploadTicket]) -> tuple[UploadTicket, ...]:
    """Tickets of a part without that of its draft."""
    return tuple(each for each in tickets if each.media_type != DRAFT_TYPE)


def draft_ticket(tickets: Sequence[UploadTicket]) -> UploadTicket:
    """Ticket of a part's draft."""
    return next(each for each in tickets if each.media_type == DRAFT_TYPE)


@dataclass(frozen=True, slots=True)
class SeparatedFiles:
    """Output and files of a request, its drafts apart from what clients read."""

    output: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    drafts: tuple[Artifact, ...]

    @classmethod
    def of(cls, product: Product, files: Sequence[Artifact]) -> SeparatedFiles:
        described = product.output.get(DRAFTS)
        if described is None:
            return cls(product.output, tuple(files), ())
        found = {each.key: each for each in files if each.media_type == DRAFT_TYPE}
        drafts = tuple(found[each["artifact"]] for each in described)
        shown = [{k: v for k, v in each.items() if k != "artifact"} for each in described]
        artifacts = tuple(each for each in files if each.key not in found)
        return cls({**product.output, DRAFTS: shown}, artifacts, drafts)
