"""Files of one attempt: inputs are fetched and decoded, artifacts are encoded and uploaded."""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.engine.media.input import read_input
from deployments.engine.media.scratch import Scratch
from deployments.engine.threads import Threads
from deployments.families.base import Family, GenerationCall, GenerationResult, Product
from deployments.families.image_io import seed_of
from deployments.families.options import InputFile, input_files, prepared_call, with_files
from deployments.families.video_recorder import VideoRecorder
from deployments.replica.resources import ReplicaResources
from deployments.replica.resume import MadeDraft, draft_ticket, media_tickets
from deployments.safety.outputs import Decision, OutputPolicy, with_sizes
from deployments.transfer.fetcher import OwnFiles
from deployments.transfer.manifest import GenerationFacts, ManifestWriter, lora_facts
from deployments.transfer.uploader import FileSink, MediaFile
from serve_app.domain.artifact import Artifact, UploadTicket
from serve_app.domain.errors import ContentBlocked, MarkMissing, NotSigned
from serve_app.domain.lease import Lease
from serve_app.domain.media.data_uri import is_data_uri
from serve_app.domain.media.draft import DRAFT_TYPE
from serve_app.domain.media.file_metadata import FileMetadata
from serve_app.domain.media.marking import MarkPolicy, is_marked
from serve_app.domain.progress import Progress, Stage
from weights.registered import replaced_of

if TYPE_CHECKING:  # they import torch and Pillow
    from PIL.Image import Image

    from deployments.engine.interception.chunked_decode import OnFrames

log = logging.getLogger(__name__)

Files = tuple[Artifact, ...]
_Bodies = Mapping[InputFile, bytes]


class InputFiles:
    """Input files of one attempt. Use on one event loop."""

    def __init__(self, lease: Lease, resources: ReplicaResources) -> None:
        self._lease = lease
        self._resources = resources
        self._bodies: _Bodies = {}
        self.notes: Mapping[str, None] = {}  # sentences for the request's log, each once

    @property
    def are_remote(self) -> bool:
        """True if a file is not in the input itself, as a data: URI."""
        files = input_files(self._lease.endpoint, self._lease.input)
        return not all(is_data_uri(file.url) for file in files)

    async def fetch(self, on_progress: Callable[[Progress], None]) -> None:
        """Fetch all input files. ``InvalidInput`` names the field of a file that fails."""
        lease, bodies = self._lease, dict[InputFile, bytes]()
        for file in input_files(lease.endpoint, lease.input):
            on_progress(Progress(Stage.FETCHING))
            own = OwnFiles.of(lease)
            bodies[file] = await self._resources.fetcher.fetch(file.url, file.place, own)
        self._bodies = bodies

    async def prepare(
        self, family: Family, pipeline: Any, input: Mapping[str, Any], seed: int
    ) -> GenerationCall:
        """Build the call for ``input``, with the decoded files in place of their URLs."""
        endpoint = self._lease.endpoint
        if not self._bodies:
            return prepared_call(family, endpoint, input, pipeline, seed)
        work = partial(self._decode_and_prepare, family, input, pipeline, seed)
        return await asyncio.get_running_loop().run_in_executor(self._resources.encoders, work)

    def _decode_and_prepare(
        self, family: Family, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        notes: list[str] = []
        decoded = {
            file: read_input(file.kind, body, file.place, notes.append)
            for file, body in self._bodies.items()
        }
        self.notes = dict.fromkeys(notes)
        fields = with_files(input, decoded)
        return prepared_call(family, self._lease.endpoint, fields, pipeline, seed)


class ArtifactDelivery:
    """Delivery of one attempt. Use on one event loop; ``on_progress`` may be called on encoder
    threads too."""

    def __init__(
        self, lease: Lease, resources: ReplicaResources, on_progress: Callable[[Progress], None]
    ) -> None:
        self.scratch = Scratch(self._on_encoded)
        self.scratch.marked = lease.has_marked_files
        self._lease = lease
        self._resources = resources
        self._on_progress = on_progress
        self._recording: VideoRecorder | None = None
        self._uploaded: list[UploadTicket] = []
        self._prompt = ""
        self._loop = asyncio.get_running_loop()
        self._facts = GenerationFacts(lease.endpoint.id)
        self._writer: ManifestWriter | None = None
        if lease.certificates and resources.signer is not None:
            self._writer = ManifestWriter(
                resources.signer, lease.key, lease.certificates, self._loop
            )

    def describe(self, fields: Mapping[str, Any], seed: int) -> None:
        """Describe the next generation in its files, if the lease says so.

        ``fields``: its input. ``seed``: for an input without one. Without the request's id, equal
        deterministic requests make equal files.
        """
        lease = self._lease
        self._prompt = str(fields.get("prompt") or "")
        weights = lease.endpoint.weights
        # Of a directory only the name: where this node has its weights is nobody's business.
        source = weights.source if weights.revision else Path(weights.source).name
        revision = f"@{weights.revision}" if weights.revision else ""
        files = [d for replaced in replaced_of(lease.endpoint).values() for d in replaced.values()]
        own = "".join(f" with {digest}" for digest in files)  # of a private endpoint
        if weights.checkpoint:
            own = f" with {weights.checkpoint.rpartition('/')[2]}{own}"
        model, used_seed = f"{source}{revision}{own}", seed_of(fields, seed)
        if lease.describe_files:
            self.scratch.description = FileMetadata.of_input(
                fields,
                endpoint=lease.endpoint.id,
                model="" if weights.demo else model,
                seed=used_seed,
                request_id="" if lease.alone else lease.request_id,
                demo=weights.demo,
            ).text()
        if self._writer is not None:
            described = json.loads(self.scratch.description or "{}")
            self._facts = GenerationFacts(
                lease.endpoint.id,
                model,
                used_seed,
                lease.request_id,
                deterministic=lease.alone,
                description=described,
            )

    async def deliver(
        self,
        family: Family,
        call: GenerationCall,
        result: GenerationResult,
        tickets: Sequence[UploadTicket],
        draft: MadeDraft | None = None,
    ) -> tuple[Product, Files]:
        """Encode the result, upload its files and return both. ``draft``: what it shows."""
        result = replace(result, scratch=self.scratch)
        if not call.makes_files:
            if self._lease.output_rules:
                raise ContentBlocked("What leaves no file cannot be checked by the safety policy.")
            return family.deliver(self._lease.endpoint, call, result, tickets), ()
        if call.recording is None:  # a recording has already reported encoding progress
            self._on_progress(Progress(Stage.ENCODING_MEDIA))
        product, artifacts = await asyncio.get_running_loop().run_in_executor(
            self._threads(tickets), self._encode, family, call, result, tickets, draft
        )
        return product, await self._upload(product, artifacts)

    async def deliver_again(self, product: Product) -> Files:
        """Upload the files that an earlier attempt made, with the tickets of this attempt."""
        loop = asyncio.get_running_loop()
        policy = MarkPolicy(self._lease.marking)
        await loop.run_in_executor(self._resources.encoders, check_marks, product.files, policy)
        artifacts = await loop.run_in_executor(self._resources.encoders, _artifacts, product)
        return await self._upload(product, artifacts)

    async def discard(self) -> None:
        """Delete the uploaded files. They will never be read."""
        for ticket in self._uploaded:
            await self._resources.uploader.delete(ticket)

    def record(self, recording: VideoRecorder | None) -> OnFrames | None:
        """Callback that receives frames from the engine while it decodes. None: no recording."""
        self._end_recording()
        self._recording = recording
        if recording is None:
            return None
        accelerator = self._resources.engine.accelerator
        recording.begin(self.scratch, self._resources.writers, accelerator)
        return recording.take

    def _threads(self, tickets: Sequence[UploadTicket]) -> Threads:
        images = all(ticket.media_type.startswith("image/") for ticket in tickets[:1])
        return self._resources.encoders if images else self._resources.writers

    def close(self) -> None:
        """Stop encoding and remove all temporary files."""
        self.scratch.close()
        self._end_recording()

    async def _upload(self, product: Product, artifacts: Files) -> Files:
        """Upload the files, and meanwhile make and upload their thumbnails."""
        uploader = self._resources.uploader
        thumbnails = ThumbnailUploads(product.files, self._thumbnail, uploader, self._uploaded)
        with thumbnails:
            for number, file in enumerate(product.files):
                self._on_progress(Progress(Stage.UPLOADING, number, len(product.files)))
                self._uploaded.append(file.ticket)
                await uploader.put(file)
            return await thumbnails.added_to(artifacts)

    def _thumbnail(self, file: MediaFile) -> Awaitable[Thumbnail]:
        def draw() -> Thumbnail:
            with self.scratch.busy():
                return thumbnail_of(file, marked=self._lease.has_marked_files)

        return asyncio.get_running_loop().run_in_executor(self._resources.encoders, draw)

    def _end_recording(self) -> None:
        if self._recording is not None:
            self._recording.abandon()

    def _encode(
        self,
        family: Family,
        call: GenerationCall,
        result: GenerationResult,
        tickets: Sequence[UploadTicket],
        draft: MadeDraft | None,
    ) -> tuple[Product, Files]:
        with self.scratch.busy():
            product = family.deliver(self._lease.endpoint, call, result, media_tickets(tickets))
            if draft is not None:
                product = draft.added_to(product, draft_ticket(tickets))
            product = self._apply_policy(product)
            check_marks(product.files, MarkPolicy(self._lease.marking))
            product = self._sign_files(product, call, result.steps)
            return product, _artifacts(product)

    def _apply_policy(self, product: Product) -> Product:
        """``product`` as the safety policy lets it be delivered. Raises ``ContentBlocked``."""
        rules = self._lease.output_rules
        if not rules:
            return product

        def encode(image: Image, media_type: str) -> bytes:
            from deployments.engine.media.images import encode as encoded  # noqa: PLC0415

            scratch = self.scratch
            return encoded(image, media_type, scratch.description, marked=scratch.marked)

        policy = OutputPolicy(rules, self._resources.checkers, self._prompt)
        try:
            product, decisions = policy.apply(product, encode)
        except ContentBlocked as error:
            self._report((Decision("", "block", error.message),))
            raise
        self._report(decisions)
        return product

    def _report(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            log.info("Safety policy: %s", decision)
        if decisions and self._resources.safety_log is not None:
            told = tuple(asdict(ruling) for ruling in decisions)
            call = self._resources.safety_log.report_decisions(self._lease.key, told)
            asyncio.run_coroutine_threadsafe(call, self._loop)

    def _sign_files(self, product: Product, call: GenerationCall, steps: int) -> Product:
        """``product`` with signed files, if the lease says so and they can be signed.

        Raises ``NotSigned`` where the mark is required.
        """
        lease, writer = self._lease, self._writer
        if writer is None:
            return product
        loras = tuple(lora_facts(lora.file, lora.scale) for lora in call.loras)
        facts = replace(self._facts, steps=steps, loras=loras)
        files: list[MediaFile] = []
        for file in product.files:
            self.scratch.check()
            try:
                is_draft = file.ticket.media_type == DRAFT_TYPE
                files.append(file if is_draft else writer.add_manifest(file, facts))
            except NotSigned as error:
                if lease.marking == MarkPolicy.REQUIRED:
                    raise
                log.warning("%s", error.message)
                writer.report_unsigned(error.message)
                files.append(file)
        sizes = {media_file.ticket.key: media_file.size for media_file in files}
        return replace(product, output=with_sizes(product.output, sizes), files=files)

    def _on_encoded(self, done: int, total: int) -> None:
        self._on_progress(Progress(Stage.ENCODING_MEDIA, done, total))


Thumbnail = tuple[bytes, int, int]
"""A WebP, its width and its height."""


def thumbnail_of(file: MediaFile, *, marked: bool) -> Thumbnail:
    """Small picture of a file, with the mark of AI-generated files if ``marked``."""
    from deployments.engine.media.images import thumbnail  # noqa: PLC0415

    return thumbnail(shown_image(file), marked=marked)


class ThumbnailUploads:
    """Thumbnails of files, drawn and uploaded while the block runs. Use on one event loop."""

    def __init__(
        self,
        files: Sequence[MediaFile],
        draw: Callable[[MediaFile], Awaitable[Thumbnail]],
        uploader: FileSink,
        uploaded: list[UploadTicket],
    ) -> None:
        """``uploaded`` gets the tickets that are used."""
        self._files = files
        self._draw = draw
        self._uploader = uploader
        self._uploaded = uploaded
        self._made = list[Artifact | None]()

    def __enter__(self) -> None:
        self._task = asyncio.create_task(self._run())

    def __exit__(self, *exc: object) -> None:
        self._task.cancel()

    async def added_to(
        self, artifacts: Sequence[Artifact], wait_s: float | None = None
    ) -> tuple[Artifact, ...]:
        """``artifacts`` of the files with their thumbnails, as far as there are some within
        ``wait_s``."""
        await asyncio.wait({self._task}, timeout=wait_s)
        missing = [None] * (len(artifacts) - len(self._made))
        return tuple(
            replace(artifact, thumbnail=small)
            for artifact, small in zip(artifacts, [*self._made, *missing], strict=True)
        )

    async def _run(self) -> None:
        for file in self._files:
            ticket, artifact = file.ticket.thumbnail, None
            if ticket is not None:
                try:
                    small = MediaFile(ticket, *await self._draw(file))
                    self._uploaded.append(ticket)
                    await self._uploader.put(small)
                    artifact = small.artifact()
                except Exception as error:
                    # The request has what it asked for. Storage may have the object nevertheless.
                    log.warning("A file has no thumbnail: %r", error)
                    await self._uploader.delete(ticket)
            self._made.append(artifact)


def shown_image(file: MediaFile) -> Image:
    """Image that stands for a file: itself, the first frame, or the waveform."""
    if file.image is not None:
        return file.image
    with BytesIO(file.body) if isinstance(file.body, bytes) else file.body.open("rb") as content:
        if file.ticket.media_type.startswith("video/"):
            from deployments.engine.media.video_reader import first_frame  # noqa: PLC0415

            return first_frame(content)
        if file.ticket.media_type.startswith("audio/"):
            from deployments.engine.media.audio import outline  # noqa: PLC0415

            return outline(content)
        from darkroom.images import read_image  # noqa: PLC0415

        return read_image(content, small=True)


# The mark of AI-generated files. The encoders write it, but a family of the operator's own may
# write files with other code.


def check_marks(files: Sequence[MediaFile], policy: MarkPolicy) -> None:
    """Raise ``MarkMissing`` if the policy requires the mark and a file has none. Reads the files,
    so a large one takes a while."""
    if policy is MarkPolicy.OFF:
        return
    for file in files:
        if file.ticket.media_type == DRAFT_TYPE or has_mark(file):
            continue
        message = (
            f"A file of {file.ticket.media_type} does not say that it is AI-generated: the family "
            "wrote it with code of its own."
        )
        if policy is MarkPolicy.REQUIRED:
            raise MarkMissing(f"{message} The operator requires the mark.")
        log.warning("%s", message)


def has_mark(file: MediaFile) -> bool:
    """Return whether a file says that it is AI-generated."""
    if isinstance(file.body, bytes):
        return is_marked(file.body)
    if not file.size:
        return False
    with file.body.open("rb") as opened:
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return is_marked(content)


def _artifacts(product: Product) -> Files:
    return tuple(file.artifact() for file in product.files)
