"""Signed C2PA manifests in generated files. Needs the extra ``c2pa``; see ADR 0017.

Never on the engine's thread: a file takes about ten milliseconds, and waits for the ingress.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.transfer.uploader import MediaFile
from serve_app.domain.errors import DarkroomError, Fenced, NotSigned
from serve_app.domain.lease import LeaseKey
from serve_app.domain.media.marking import (
    GENERATION,
    SIGNED_TYPES,
    TRAINED_ALGORITHMIC_MEDIA,
)
from serve_app.domain.ports import FileSigner
from serve_app.telemetry.version import package_version

if TYPE_CHECKING:
    from c2pa import Context

SIGN_TIMEOUT_S = 10.0
SPILL_MB = 8  # the library keeps larger files on disk while it signs them
VERSIONS = ("torch", "diffusers", "transformers")
"""Packages whose version may change the pixels."""

READER_SETTINGS: Mapping[str, Any] = {
    "version": 1,
    # Nothing is asked over the network. A thumbnail would take ten times as long as the rest.
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
    "core": {"backing_store_memory_threshold_in_mb": SPILL_MB},
}


@dataclass(frozen=True, slots=True)
class GenerationFacts:
    """What the manifest says of a generation. Nothing of the prompt, except in ``description``."""

    endpoint: str
    model: str = ""  # source of the weights, with the revision
    seed: int | None = None  # None: not known
    request_id: str = ""
    steps: int | None = None
    loras: Sequence[Mapping[str, Any]] = ()  # digest and scale of each
    deterministic: bool = False  # it shared no forward pass with other requests
    description: Mapping[str, Any] = field(default_factory=dict[str, Any])  # of described files
    versions: Mapping[str, str] | None = None  # None: those of what computes here

    def manifest(self) -> str:
        """C2PA manifest as the library takes it."""
        facts = {
            "endpoint": self.endpoint,
            "model": self.model,
            "seed": self.seed,
            "steps": self.steps,
            "request_id": self.request_id,
            "loras": list(self.loras),
            "deterministic": self.deterministic,
            "description": dict(self.description),
            "versions": dict(versions() if self.versions is None else self.versions),
        }
        kept = {name: value for name, value in facts.items() if value not in ("", [], {}, None)}
        action = {"action": "c2pa.created", "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA}
        return json.dumps(
            {
                "claim_generator_info": [{"name": "Darkroom", "version": package_version()}],
                "assertions": [
                    {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
                    {"label": GENERATION, "data": kept, "kind": "Json"},
                ],
            }
        )


class ManifestWriter:
    """Writer of the manifests of one attempt's files. Call ``add_manifest`` on other threads
    than the event loop's."""

    def __init__(
        self,
        signer: FileSigner,
        lease_key: LeaseKey,
        certificates: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """``loop``: the one that calls ``signer``."""
        self._signer = signer
        self._held = lease_key
        self._certificates = certificates
        self._loop = loop

    def add_manifest(self, file: MediaFile, facts: GenerationFacts) -> MediaFile:
        """Return the file with a signed manifest in it. A path is replaced by another beside it.

        Raises ``NotSigned`` with the reason, or ``Fenced`` if the lease is lost.
        """
        media_type = file.ticket.media_type
        if media_type not in SIGNED_TYPES:
            raise NotSigned(f"Files of {media_type} cannot have a signature.")
        failed: list[Exception] = []

        def sign(claim: bytes) -> bytes:
            try:
                call = self._signer.sign_claim(self._held, claim)
                return asyncio.run_coroutine_threadsafe(call, self._loop).result(SIGN_TIMEOUT_S)
            except Exception as error:  # the library would only say that the signature is wrong
                failed.append(error)
                return b""

        try:
            return self._write_manifest(file, facts, sign)
        except Exception as error:
            reason = failed[0] if failed else error
            if isinstance(reason, Fenced):
                raise reason from error
            raise NotSigned(f"A file could not be signed: {_words(reason)}") from error

    def report_unsigned(self, reason: str) -> None:
        """Make the ingress count a file that is delivered without a signature."""
        call = self._signer.report_unsigned(self._held, reason)
        asyncio.run_coroutine_threadsafe(call, self._loop)

    def _write_manifest(self, file: MediaFile, facts: GenerationFacts, sign: Any) -> MediaFile:
        from c2pa import Builder, C2paSigningAlg, Signer  # noqa: PLC0415  # an optional extra

        algorithm = C2paSigningAlg.ES256
        with (
            Signer.from_callback(sign, algorithm, self._certificates) as signer,
            Builder(facts.manifest(), _context()) as builder,
        ):
            media_type, body = file.ticket.media_type, file.body
            if isinstance(body, bytes):
                target = BytesIO()
                builder.sign(signer, media_type, BytesIO(body), target)
                return replace(file, body=target.getvalue())
            path = body.with_name(f"signed-{body.name}")
            with body.open("rb") as source, path.open("w+b") as sink:
                builder.sign(signer, media_type, source, sink)
            body.unlink()
            return replace(file, body=path)


def lora_facts(file: Path, scale: float) -> Mapping[str, Any]:
    """Digest and scale of a LoRA. Files in the cache are named by their digest."""
    return {"file": file.stem, "scale": scale}


def own_version() -> Mapping[str, str]:
    """Version of Darkroom, for files that other programs have computed."""
    return {"darkroom": package_version()}


@cache
def versions() -> Mapping[str, str]:
    """Versions of what computes the pixels."""
    releases: dict[str, str] = {"darkroom": package_version()}
    for name in VERSIONS:
        try:
            releases[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # pragma: no cover
            continue
    return releases


@cache
def _context() -> Context:
    from c2pa import Context, Settings  # noqa: PLC0415

    return Context(Settings.from_dict(dict(READER_SETTINGS)))


def _words(reason: Exception) -> str:
    if isinstance(reason, ImportError):
        return "the package c2pa-python is not installed here (the extra `c2pa` of Darkroom)"
    if isinstance(reason, FutureTimeoutError):
        return "the ingress did not answer in time"
    return reason.message if isinstance(reason, DarkroomError) else str(reason)
