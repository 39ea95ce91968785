"""The mark and the signature of AI-generated files, and the description of what made them, added to
files that apps have written.

What a file shows is not encoded again: mark and description are inserted beside it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from struct import pack, unpack
from typing import Any

from darkroom.media_types import suffix_of_type
from deployments.engine.media.xmp import add_xmp
from deployments.replica.files import has_mark
from deployments.transfer.manifest import GenerationFacts, ManifestWriter, own_version
from deployments.transfer.uploader import MediaFile
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import MarkMissing, NotSigned, PipelineFailed
from serve_app.domain.lease import Lease
from serve_app.domain.media.file_metadata import FileMetadata
from serve_app.domain.media.marking import (
    SIGNED_TYPES,
    TAG,
    TRAINED_ALGORITHMIC_MEDIA,
    MarkPolicy,
    xmp_packet,
)
from serve_app.domain.ports import FileSigner

log = logging.getLogger(__name__)

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = len(_PNG) + 8 + 13 + 4  # with the chunk IHDR, which comes first
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ID3_PRIVATE = b"XMP\0"
_FLAG_XMP, _FLAG_ALPHA = 0x04, 0x10  # of WebP's chunk VP8X

SAME = {
    "audio/m4a": "video/mp4",
    "audio/mp4": "video/mp4",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-wav": "audio/wav",
    "image/jpg": "image/jpeg",
    "video/quicktime": "video/mp4",
}
"""Media types whose files are built as those of another one."""

TAGGED = {"audio/flac": "flac", "audio/ogg": "ogg", "video/webm": "webm"}
"""Media types whose mark is a tag, with FFmpeg's format."""


class FileMarks:
    """Marks, descriptions and signatures of the files of one attempt. An app's own file is never
    changed: it may be one of its code. Use on one event loop."""

    def __init__(self, lease: Lease, folder: Path, signer: FileSigner | None) -> None:
        """``folder``: for changed copies. ``signer``: None if nothing signs here."""
        self._lease = lease
        self._folder = folder
        self._signer = signer
        self._copies: set[Path] = set()  # marked ones, each of one file
        self._seed = _seed_in(lease.input)
        self._description = ""

    def describe(self, output: Mapping[str, Any]) -> None:
        """Describe the request in its files from now on, if the lease says so. ``output`` has the
        seed that was drawn, if the code says it as fal's endpoints do."""
        lease = self._lease
        self._seed = _seed_in(output, self._seed)
        if lease.describe_files:
            self._description = FileMetadata.of_input(
                lease.input,
                endpoint=lease.endpoint.id,
                model=_code(lease.endpoint),
                seed=self._seed,
                request_id="" if lease.alone else lease.request_id,
                secret=_secret_fields(lease.endpoint),
            ).text()

    async def mark(self, file: MediaFile, number: int) -> MediaFile:
        """The file with the mark and the description, if the lease says so. Raises
        ``MarkMissing``."""
        if not self._lease.has_marked_files and not self._description:
            return file
        return await asyncio.to_thread(self._mark, file, number)

    async def sign(self, file: MediaFile, number: int) -> MediaFile:
        """The file with a signed manifest, if the lease says so.

        Raises ``MarkMissing`` or ``NotSigned`` where that is required and fails.
        """
        lease = self._lease
        if not lease.certificates:
            return file
        if self._signer is None:
            if lease.marking == MarkPolicy.REQUIRED:
                raise NotSigned("This replica cannot ask for signatures.")
            log.warning("A file is not signed: this replica cannot ask for signatures.")
            return file
        loop = asyncio.get_running_loop()
        writer = ManifestWriter(self._signer, lease.key, lease.certificates, loop)
        return await asyncio.to_thread(self._sign, file, number, writer)

    def _mark(self, file: MediaFile, number: int) -> MediaFile:
        if has_mark(file):  # perhaps in a signed manifest, which another byte would make invalid
            return file
        media_type = file.ticket.media_type
        path = self._copy(file, f"marked-{number}")
        if insert(path, media_type, self._description, mark=self._lease.has_marked_files):
            self._copies.add(path)
            return replace(file, body=path)
        if self._lease.has_marked_files:
            self._refuse_or_warn(f"A file of {media_type} cannot be marked as AI-generated")
        return file

    def _sign(self, file: MediaFile, number: int, writer: ManifestWriter) -> MediaFile:
        media_type = file.ticket.media_type
        known = SAME.get(media_type, media_type)
        if known not in SIGNED_TYPES:
            message = f"A file of {media_type} cannot be signed"
            self._refuse_or_warn(message)
            writer.report_unsigned(f"{message}.")
            return file
        try:
            own = isinstance(file.body, Path) and file.body in self._copies
            copy = file.body if own else self._copy(file, f"to-sign-{number}")
            ticket = replace(file.ticket, media_type=known)
            signed = writer.add_manifest(replace(file, body=copy, ticket=ticket), self._facts())
        except NotSigned as error:
            if self._lease.marking == MarkPolicy.REQUIRED:
                raise
            log.warning("%s", error.message)
            writer.report_unsigned(error.message)
            return file
        return replace(signed, ticket=file.ticket)

    def _refuse_or_warn(self, message: str) -> None:
        if self._lease.marking == MarkPolicy.REQUIRED:
            raise MarkMissing(
                f"{message}, and the operator requires it. Deliver it in another format, or "
                "with generated=False if no model has made it."
            )
        log.warning("%s.", message)

    def _facts(self) -> GenerationFacts:
        """What a manifest says. Versions of packages are left out: an app may have others."""
        lease = self._lease
        return GenerationFacts(
            lease.endpoint.id,
            _code(lease.endpoint),
            self._seed,
            lease.request_id,
            description=json.loads(self._description or "{}"),
            versions=own_version(),
        )

    def _copy(self, file: MediaFile, name: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}{suffix_of_type(file.ticket.media_type)}"
        if isinstance(file.body, bytes):
            path.write_bytes(file.body)
        else:
            shutil.copyfile(file.body, path)
        return path


def _seed_in(fields: Mapping[str, Any], otherwise: int | None = None) -> int | None:
    seed = fields.get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else otherwise


def _code(endpoint: Endpoint) -> str:
    """What makes the files of an endpoint: its code by digest, or the model of a provider."""
    option = endpoint.executor_option
    code = option.get("bundle") or option.get("endpoint") or endpoint.digest
    return f"{endpoint.family}:{code}"


def _secret_fields(endpoint: Endpoint) -> Collection[str]:
    """Input fields with secrets, which Cog's and pydantic's schemas mark as never shown."""
    schema: Mapping[str, Any] = endpoint.options.get("input_schema") or {}
    fields: Mapping[str, Mapping[str, Any]] = schema.get("properties") or {}
    return {name for name, field in fields.items() if field.get("writeOnly")}


def insert(path: Path, media_type: str, description: str = "", *, mark: bool = True) -> bool:
    """Add the mark and a description to a file, in place. False if it has no place for them, or is
    not what its type says; then it is as it was."""
    known = SAME.get(media_type, media_type)
    before = path.with_name(f"{path.name}.unmarked")
    shutil.copyfile(path, before)
    try:
        if known in TAGGED:
            tags = {TAG: TRAINED_ALGORITHMIC_MEDIA} if mark else {}
            tags |= {"comment": description} if description else {}
            return _write_tags(before, path, TAGGED[known], tags)
        packet = xmp_packet(description, marked=mark)
        if known in _INSERT:
            path.write_bytes(_INSERT[known](before.read_bytes(), packet.encode()))
            return True
        return _begins_as(known, before) and add_xmp(path, known, packet)
    except (PipelineFailed, ValueError, IndexError, OSError):
        # Also FFmpeg's errors. A file that was written in part is restored.
        shutil.copyfile(before, path)
        return False
    finally:
        before.unlink()


def _begins_as(media_type: str, path: Path) -> bool:
    """Check the signature of a file, to whose end a packet is appended whatever it is."""
    with path.open("rb") as file:
        head = file.read(12)
    place, expected = _SIGNATURES.get(media_type, (0, b""))
    return head[place:].startswith(expected)


def _in_png(content: bytes, packet: bytes) -> bytes:
    if not content.startswith(_PNG) or content[12:16] != b"IHDR":
        raise ValueError("no PNG file")
    chunk = b"iTXt" + b"XML:com.adobe.xmp\0" + b"\0\0\0\0" + packet
    framed = pack(">I", len(chunk) - 4) + chunk + pack(">I", zlib.crc32(chunk))
    return content[:_PNG_HEADER] + framed + content[_PNG_HEADER:]


def _in_jpeg(content: bytes, packet: bytes) -> bytes:
    if not content.startswith(b"\xff\xd8\xff"):
        raise ValueError("no JPEG file")
    at = 2
    if content[2:4] == b"\xff\xe0":  # JFIF's segment has to come first
        at += 2 + int.from_bytes(content[4:6], "big")
    segment = _JPEG_XMP + packet
    return content[:at] + b"\xff\xe1" + pack(">H", len(segment) + 2) + segment + content[at:]


def _in_webp(content: bytes, packet: bytes) -> bytes:
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        raise ValueError("no WebP file")
    body = content[12 : 8 + unpack("<I", content[4:8])[0]]
    if body[:4] == b"VP8X":
        body = body[:8] + bytes([body[8] | _FLAG_XMP]) + body[9:]
    else:
        width, height, alpha = _webp_size(body)
        flags = _FLAG_XMP | (_FLAG_ALPHA if alpha else 0)
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"VP8X" + pack("<I", 10) + bytes([flags, 0, 0, 0]) + sides + body
    body += b"\0" * (len(body) % 2)
    body += b"XMP " + pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    return b"RIFF" + pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_size(body: bytes) -> tuple[int, int, bool]:
    """Width, height, and transparency of the one image of a simple file."""
    if body[:4] == b"VP8L" and body[8] == 0x2F:
        bits = int.from_bytes(body[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if body[:4] == b"VP8 " and body[11:14] == b"\x9d\x01\x2a":
        width, height = unpack("<HH", body[14:18])
        return width & 0x3FFF, height & 0x3FFF, False
    raise ValueError("no WebP file of one image")


def _in_mp3(content: bytes, packet: bytes) -> bytes:
    """``content`` with the packet in an ID3 frame, in its tag or in a new one."""
    private = _ID3_PRIVATE + packet
    if content[:3] != b"ID3":
        if content[:1] != b"\xff":
            raise ValueError("no MP3 file")
        frame = b"PRIV" + _seven_bits(len(private)) + b"\0\0" + private
        return b"ID3\x04\0\0" + _seven_bits(len(frame)) + frame + content
    version, flags = content[3], content[5]
    if version not in (3, 4) or flags:
        raise ValueError("a tag with an extension")
    sized = _seven_bits(len(private)) if version == 4 else pack(">I", len(private))
    frame = b"PRIV" + sized + b"\0\0" + private
    size = sum(byte << 7 * at for at, byte in enumerate(reversed(content[6:10])))
    return content[:6] + _seven_bits(size + len(frame)) + frame + content[10:]


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


_SIGNATURES: Mapping[str, tuple[int, bytes]] = {
    "audio/wav": (8, b"WAVE"),
    "image/gif": (0, b"GIF8"),
    "video/mp4": (4, b"ftyp"),
}

_INSERT: Mapping[str, Callable[[bytes, bytes], bytes]] = {
    "audio/mpeg": _in_mp3,
    "image/jpeg": _in_jpeg,
    "image/png": _in_png,
    "image/webp": _in_webp,
}


def _write_tags(source: Path, target: Path, form: str, tags: Mapping[str, str]) -> bool:
    """Write the streams of ``source`` to ``target`` with tags. ``ValueError`` if they cannot be
    read."""
    import av  # noqa: PLC0415  # few apps make such files

    options = {"fflags": "bitexact"}
    try:
        with (
            av.open(str(source)) as reader,
            av.open(str(target), "w", format=form, options=options) as writer,
        ):
            writer.metadata.update(reader.metadata)
            known = {name.lower() for name in reader.metadata}
            for name, value in tags.items():
                if name != "comment" or name not in known:  # a comment of the app stays
                    writer.metadata[name] = value
            streams = {
                stream.index: writer.add_stream_from_template(stream)
                for stream in reader.streams
                if isinstance(stream, av.VideoStream | av.AudioStream)
            }
            for packet in reader.demux():
                if packet.dts is not None and packet.stream.index in streams:
                    packet.stream = streams[packet.stream.index]
                    writer.mux(packet)
    except av.FFmpegError as error:
        raise ValueError(str(error)) from error
    return True
