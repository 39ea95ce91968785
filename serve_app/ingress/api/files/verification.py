"""``/v1/verify``: who made a file, and whether it was changed since."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from typing_extensions import TypedDict

from serve_app.domain.errors import BodyTooSlow, InvalidInput, Overloaded, Unsupported
from serve_app.domain.media.marking import SIGNED_TYPES
from serve_app.ingress.http.auth import authenticate
from serve_app.ingress.http.body import UploadStream
from serve_app.ingress.http.context import context_of
from serve_app.ingress.http.errors import json_reply
from serve_app.ingress.http.json_schema import Binary
from serve_app.ingress.http.openapi import DocumentedRoute, Operation, answer
from serve_app.ingress.http.route_scopes import ANY_KEY
from serve_app.ingress.services.cpu_executor import in_cpu_thread
from serve_app.ingress.services.services import services_of
from serve_app.provenance.certificates import CERTIFICATES_FILE
from serve_app.provenance.checker import CheckedFile, check_apart
from serve_app.provenance.reader import SignatureState

MAX_FILE_BYTES = 64 * 2**20
RECEIVE_S = 60.0
"""Longest time to receive a file. It holds its tenant's place, and none of the few for checks."""
MAX_TENANTS = 32
"""Tenants whose files are received or checked at once. Each file takes disk."""
PIECE_BYTES = 2**20
RETRY_S = 2.0

SUFFIXES = {"audio/mpeg": ".mp3"} | {
    signed_type: f".{signed_type.partition('/')[2]}"
    for signed_type in SIGNED_TYPES
    if signed_type != "audio/mpeg"
}
"""Ending of a file's name by its media type: the reader goes by it."""


class FileVerdict(TypedDict):
    """What a file's signature says, and what the signer says of its origin."""

    verdict: Annotated[
        SignatureState,
        Field(
            description="`trusted`: unchanged since a signer signed it whom this installation "
            "trusts. `unknown_signer`: unchanged since someone signed it, who may be anyone. "
            "`invalid`: changed after it was signed, or signed wrongly. `unsigned`."
        ),
    ]
    signer: Annotated[str, Field(description="Common name of the certificate; empty: none.")]
    issuer: Annotated[str, Field(description="Organization of the certificate; empty: none.")]
    generation: Annotated[
        dict[str, Any],
        Field(
            description="What Darkroom says that made it: request, endpoint, model, seed, "
            "versions. Empty: it was not Darkroom. Only `trusted` makes it true."
        ),
    ]
    problems: Annotated[list[str], Field(description="Codes of C2PA, if it is not valid.")]
    marked: Annotated[bool, Field(description="It says that it is AI-generated.")]


async def verify(request: HttpRequest) -> Response:
    """Check the signature (C2PA) of a file, as `darkroom verify` does. Nothing of it is kept."""
    context_of(request).route = "v1.verify"
    caller = await authenticate(request)
    services = services_of(request)
    suffix = _suffix(request)
    with _place(services.checking, caller.tenant):
        folder = await in_cpu_thread(tempfile.TemporaryDirectory[str])
        try:
            file = Path(folder.name) / f"file{suffix}"
            await _receive_body(request, file)
            certificates = services.config.server.data_dir / CERTIFICATES_FILE
            async with services.file_checks:  # after the bytes: a slow sender delays no other
                verification = await check_apart(file, certificates)
        finally:
            await in_cpu_thread(folder.cleanup)
    return json_reply(_verdict(verification))


@contextmanager
def _place(checking: set[str], tenant: str) -> Generator[None]:
    """Hold the only place of a tenant. ``Overloaded``: it has another check, or too many have."""
    if tenant in checking or len(checking) >= MAX_TENANTS:
        raise Overloaded(
            "This server checks one file of a tenant at once. Try again when the other one has "
            "ended, or check the file on your machine, by `darkroom verify FILE`.",
            RETRY_S,
            "file_checks",
        )
    checking.add(tenant)
    try:
        yield
    finally:
        checking.discard(tenant)


def _suffix(request: HttpRequest) -> str:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in SUFFIXES:
        raise Unsupported(
            "Send the bytes of the file as the body, with its media type as `Content-Type`: one of "
            f"{', '.join(sorted(SUFFIXES))}. Files of other types cannot be signed."
        )
    return SUFFIXES[media_type]


async def _receive_body(request: HttpRequest, file: Path) -> None:
    larger = (
        f"The file is larger than {MAX_FILE_BYTES // 2**20} MiB, the most that is checked here. "
        "Check it on your machine, by `darkroom verify FILE`."
    )
    stream = UploadStream(request, MAX_FILE_BYTES, larger)
    pieces = bytearray()
    size = 0
    try:
        async with asyncio.timeout(RECEIVE_S):
            async for chunk in stream.chunks():
                pieces += chunk
                if len(pieces) >= PIECE_BYTES:
                    size += await in_cpu_thread(_append, file, bytes(pieces))
                    pieces.clear()
    except TimeoutError:
        raise BodyTooSlow(
            f"The file did not arrive within {RECEIVE_S:g} seconds. Check it on your machine, by "
            "`darkroom verify FILE`."
        ) from None
    size += await in_cpu_thread(_append, file, bytes(pieces))
    if not size:
        raise InvalidInput("The body is empty. Send the bytes of the file.")


def _append(file: Path, content: bytes) -> int:
    with file.open("ab") as opened:
        return opened.write(content)


def _verdict(checked: CheckedFile) -> FileVerdict:
    signature = checked.signature
    return {
        "verdict": signature.verdict,
        "signer": signature.signer,
        "issuer": signature.issuer,
        "generation": dict(signature.generation),
        "problems": [*signature.problems],
        "marked": checked.marked,
    }


VERIFY = Operation(
    "verifyFile",
    "Check the signature of a file, and say who made it",
    {200: answer("What the signature says.", FileVerdict)},
    errors=(400, 413, 422, 429),
    content=dict.fromkeys(sorted(SUFFIXES), Binary),
)

ROUTES = [DocumentedRoute("/v1/verify", verify, {"POST": VERIFY}, ANY_KEY)]
