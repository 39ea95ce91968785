"""Start point of an attempt: the snapshot of the attempt before, or a draft; and the drafts that it
makes."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from deployments.families.base import GenerationResult, Product
from deployments.families.multi_output import OutputPart, split
from deployments.replica.resources import ReplicaResources
from deployments.transfer.fetcher import OwnFiles
from deployments.transfer.uploader import MediaFile
from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import (
    DarkroomError,
    ForkRefused,
    InvalidInput,
    SnapshotRefused,
    Unsupported,
)
from serve_app.domain.lease import Lease
from serve_app.domain.media.draft import (
    DRAFT,
    DRAFT_TYPE,
    DRAFTS,
    FROM_DRAFT,
    NEW_NOISE,
    NOISE_SEED,
    share_of_steps,
)

if TYPE_CHECKING:  # they import torch
    from deployments.engine.drafting.draft import Draft, DraftPoint
    from deployments.engine.drafting.fork import Fork

# Format of the snapshot of a request in parts: the finished parts with their files, and the
# engine's snapshot of the running part. Like the engine's: safetensors with JSON in its header.

FORMAT = 1
MAX_BYTES = 256 * 2**20
"""Limit for finished files together: each snapshot contains them all, and is held in memory."""

SHARE_DECIMALS = 6
"""Of a share of steps that is billed."""


@dataclass(frozen=True, slots=True)
class FinishedOutput:
    product: Product  # its files exist until the attempt ends
    steps: int


def to_bytes(finished: Sequence[FinishedOutput], snapshot: bytes) -> bytes:
    """Encode a snapshot. ``snapshot`` is the engine's, of the part after ``finished``. Raises
    ``SnapshotRefused`` if the files exceed ``MAX_BYTES`` or no longer exist."""
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import save  # noqa: PLC0415

    try:
        size = sum(file.size for output in finished for file in output.product.files)
        if size > MAX_BYTES:
            raise SnapshotRefused(
                f"The finished files have {size} bytes, more than the limit of {MAX_BYTES}."
            )
        bodies = {_name(part, place): file.in_memory() for part, place, file in _files(finished)}
    except FileNotFoundError as error:
        raise SnapshotRefused("The finished files were deleted: the attempt has ended.") from error
    bodies[_UNDER_WAY] = snapshot
    header = {"format": FORMAT, "finished": [_describe_output(output) for output in finished]}
    tensors = {name: np.frombuffer(body, np.uint8) for name, body in bodies.items()}
    return save(tensors, metadata={_KEY: json.dumps(header)})


def _files(finished: Sequence[FinishedOutput]) -> Iterator[tuple[int, int, MediaFile]]:
    """Files with the number of their part, and their own number within the part."""
    for part, output in enumerate(finished):
        for place, file in enumerate(output.product.files):
            yield part, place, file


def _describe_output(part: FinishedOutput) -> dict[str, Any]:
    product = part.product
    files = [
        {"key": file.ticket.key, "width": file.width, "height": file.height}
        for file in product.files
    ]
    return {
        "output": dict(product.output),
        "units": product.units,
        "share": product.share,
        "steps": part.steps,
        "files": files,
    }


def is_parts_snapshot(content: bytes) -> bool:
    """True for a snapshot in parts, False for an engine's. ``SnapshotRefused`` for neither."""
    return _KEY in _header(content)


def from_bytes(
    content: bytes, tickets: Sequence[Sequence[UploadTicket]]
) -> tuple[Sequence[FinishedOutput], bytes]:
    """Decode what ``to_bytes`` encoded, with ``tickets`` (those of each part) in the files and the
    output. Reads everything, so it takes a while. ``SnapshotRefused`` if it is invalid."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        header = json.loads(_header(content)[_KEY])
        if header["format"] != FORMAT:
            raise SnapshotRefused("The snapshot was made by another version of Darkroom.")
        bodies = {name: array.tobytes() for name, array in load(content).items()}
        finished = [
            _restore_output(output, part, tickets[part], bodies)
            for part, output in enumerate(header["finished"])
        ]
        return finished, bodies[_UNDER_WAY]
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise SnapshotRefused("The snapshot belongs to another request or is damaged.") from error


def _header(content: bytes) -> Mapping[str, str]:
    size = int.from_bytes(content[:8], "little")
    try:
        return dict(json.loads(content[8 : 8 + size])["__metadata__"])
    except (ValueError, LookupError, TypeError) as error:
        raise SnapshotRefused("The file is not a snapshot.") from error


def _restore_output(
    described: Mapping[str, Any],
    part: int,
    tickets: Sequence[UploadTicket],
    bodies: Mapping[str, bytes],
) -> FinishedOutput:
    files = [
        MediaFile(tickets[place], bodies[_name(part, place)], file["width"], file["height"])
        for place, file in enumerate(described["files"])
    ]
    keys = {
        was["key"]: file.ticket.key for was, file in zip(described["files"], files, strict=True)
    }
    output = _rename_artifacts(described["output"], keys)
    product = Product(output, files, described["units"], described.get("share", 1.0))
    return FinishedOutput(product, described["steps"])


def _rename_artifacts(value: Any, keys: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_rename_artifacts(item, keys) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: keys[inner] if name == "artifact" else _rename_artifacts(inner, keys)
        for name, inner in value.items()
    }


def _name(part: int, place: int) -> str:
    return f"{part}/{place}"


_KEY = "darkroom-parts"
_UNDER_WAY = "under way"


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StartPoint:
    parts: Sequence[OutputPart]  # all of them
    finished: Sequence[FinishedOutput] = ()  # the first parts, with the attempt's own tickets
    snapshot: bytes | None = None  # engine snapshot of the first unfinished part


async def start_point(
    lease: Lease, snapshot_url: str, seed: int, resources: ReplicaResources
) -> StartPoint:
    """Read the lease's snapshot. One that cannot be fetched or read is ignored. ``seed`` is for
    inputs that have none."""
    fetcher, loop = resources.snapshot_fetcher, asyncio.get_running_loop()
    try:
        content = await fetcher.fetch(snapshot_url, "snapshot", OwnFiles.of(lease))
        return await loop.run_in_executor(resources.encoders, decode_snapshot, lease, seed, content)
    except DarkroomError as error:
        log.warning("The snapshot cannot be read; starting from the beginning. %s", error.message)
        return StartPoint(split(lease, seed))


def decode_snapshot(lease: Lease, seed: int, content: bytes) -> StartPoint:
    """Decode a snapshot. ``SnapshotRefused`` if it does not belong to this request. The engine
    checks the snapshot of a single call."""
    if not is_parts_snapshot(content):
        return StartPoint(split(lease, seed, together=True), (), content)
    parts = split(lease, seed)
    finished, snapshot = from_bytes(content, [part.tickets for part in parts])
    if len(finished) >= len(parts):
        raise SnapshotRefused("The snapshot belongs to a request with more parts.")
    return StartPoint(parts, finished, snapshot)


# Drafts of a request, and the draft that a request goes on from.


@dataclass(frozen=True, slots=True)
class GenerationStart:
    """How a generation begins, and where it ends as a draft."""

    snapshot: bytes | None = None  # of the engine
    point: DraftPoint | None = None
    fork: Fork | None = None

    @property
    def is_preview(self) -> bool:
        """Return whether it shows a draft, and computes no step."""
        return self.fork is not None and self.fork.preview

    @property
    def earlier_steps(self) -> float:
        """Steps that it does not compute; infinite if it computes none."""
        if self.is_preview:
            return math.inf
        return 0 if self.fork is None else self.fork.draft.step

    def planned_steps(self) -> Callable[[int], int] | None:
        """Function from the steps of the whole generation to those of the draft; None: all."""
        return None if self.point is None else self.point.step_of

    def with_charged_units(self, product: Product) -> Product:
        """``product`` with the units of the steps that were computed after a draft."""
        if self.fork is None:
            return product
        return _with_share(
            product, 1.0 - share_of_steps(self.fork.draft.step, self.fork.draft.steps)
        )

    def refusal(self, error: ForkRefused | Unsupported) -> InvalidInput:
        """The error of the input field that asks for what is refused."""
        field = DRAFT if self.fork is None or self.is_preview else FROM_DRAFT
        return InvalidInput.of_field(field, error.message, "unprocessable_draft")


async def request_start(lease: Lease, seed: int, resources: ReplicaResources) -> GenerationStart:
    """Start of each generation of a request. Fetches the draft that it goes on from.

    ``seed``: for new noise without one. Raises ``InvalidInput`` if the draft cannot be fetched.
    """
    if lease.draft_url is not None:
        return await _fork_start(lease, lease.draft_url, seed, resources)
    return GenerationStart(point=_point(lease.input.get(DRAFT)))


async def _fork_start(
    lease: Lease, draft_url: str, seed: int, resources: ReplicaResources
) -> GenerationStart:
    body = await resources.snapshot_fetcher.fetch(draft_url, FROM_DRAFT, OwnFiles.of(lease))
    try:
        return await asyncio.get_running_loop().run_in_executor(
            resources.encoders, _decode_draft, body, lease.input, seed
        )
    except ForkRefused as error:
        raise InvalidInput.of_field(FROM_DRAFT, error.message, "unprocessable_draft") from error


def _point(drafting: Mapping[str, Any] | None) -> DraftPoint | None:
    return None if drafting is None else _point_of(drafting)


def _point_of(drafting: Mapping[str, Any]) -> DraftPoint:
    from deployments.engine.drafting.draft import DraftPoint  # noqa: PLC0415

    if (noise := drafting.get("noise")) is not None:
        return DraftPoint(noise=float(noise))
    return DraftPoint(share=float(drafting["until"]))


def _decode_draft(body: bytes, requested: Mapping[str, Any], seed: int) -> GenerationStart:
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
    result: GenerationResult  # of the draft
    seed: int

    @property
    def preview(self) -> GenerationStart:
        """Start of the generation that shows it."""
        from deployments.engine.drafting.fork import Fork  # noqa: PLC0415

        return GenerationStart(fork=Fork(self.draft, preview=True))

    def of(self, preview: GenerationResult) -> GenerationResult:
        """Result of the preview, with the time and the steps of the draft."""
        inference_s = self.result.inference_s + preview.inference_s
        return replace(preview, inference_s=inference_s, steps=self.result.steps)

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
        extended = replace(product, output=output, files=[*product.files, file])
        return _with_share(extended, share_of_steps(draft.step, draft.steps) or 1.0)


def _with_share(product: Product, share: float) -> Product:
    """``product`` of which only a share of the steps was computed."""
    return replace(product, units=product.units * share, share=round(share, SHARE_DECIMALS))


def media_tickets(tickets: Sequence[UploadTicket]) -> tuple[UploadTicket, ...]:
    """Tickets of a part without that of its draft."""
    return tuple(ticket for ticket in tickets if ticket.media_type != DRAFT_TYPE)


def draft_ticket(tickets: Sequence[UploadTicket]) -> UploadTicket:
    """Ticket of a part's draft."""
    return next(ticket for ticket in tickets if ticket.media_type == DRAFT_TYPE)


@dataclass(frozen=True, slots=True)
class SeparatedFiles:
    """Output and files of a request, its drafts apart from what clients read."""

    output: Mapping[str, Any]
    artifacts: tuple[Artifact, ...]
    drafts: tuple[Artifact, ...]

    @classmethod
    def of(cls, product: Product, files: Sequence[Artifact]) -> SeparatedFiles:
        if DRAFTS not in product.output:
            return cls(product.output, tuple(files), ())
        return cls._of_drafts(product, files)

    @classmethod
    def _of_drafts(cls, product: Product, files: Sequence[Artifact]) -> SeparatedFiles:
        described = product.output[DRAFTS]
        draft_files = {file.key: file for file in files if file.media_type == DRAFT_TYPE}
        drafts = tuple(draft_files[draft["artifact"]] for draft in described)
        shown = [{k: v for k, v in draft.items() if k != "artifact"} for draft in described]
        artifacts = tuple(file for file in files if file.key not in draft_files)
        return cls({**product.output, DRAFTS: shown}, artifacts, drafts)
